//! `sites`, `pilots`, `slots`, and what administrators do with them.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use protocol::api::HandPilotRequest;
use protocol::codes::{ErrorBody, ErrorCode, exit};
use serde_json::json;

use super::show::rows;
use crate::cli::{Admin, Infrastructure, NewPilot, Sites};
use crate::client::{Client, ClientError};
use crate::clock;
use crate::failure::Failure;
use crate::output::{Detail, Output, describe};

/// `sites`
pub async fn sites(client: &Client, output: &Output, args: Sites) -> Result<i32, Failure> {
    let page = client.sites().await?;
    let Some(name) = args.name else {
        output.result(
            &page,
            |page| page.items.iter().map(|s| s.name.to_string()).collect(),
            |page, output| describe::sites(&page.items, output),
        )?;
        return Ok(exit::OK);
    };
    let site = page.items.iter().find(|s| s.name == name).ok_or_else(|| {
        let names: Vec<&str> = page.items.iter().map(|s| s.name.as_str()).collect();
        ClientError::Refused {
            call: format!("show the site {name}"),
            body: ErrorBody {
                code: ErrorCode::NotFound,
                detail: "there is no such site".into(),
                help: Some(format!("the sites are: {}", names.join(", "))),
            },
        }
    })?;
    let explanation = client.explain_site(&name).await?;
    let both = json!({"site": site, "explanation": explanation});
    output.result(
        &both,
        |_| vec![name.to_string()],
        |_, output| {
            let table = describe::sites(std::slice::from_ref(site), output);
            format!("{table}\n\n{}", describe::explanation(&explanation))
        },
    )?;
    Ok(exit::OK)
}

/// `pilots`
pub async fn pilots(
    client: &Client,
    output: &Output,
    args: &Infrastructure,
) -> Result<i32, Failure> {
    let page = rows(&args.rows, output, async |page| {
        client.pilots(args.site.as_ref(), &page).await
    })
    .await?;
    output.result(
        &page,
        |page| {
            page.items
                .iter()
                .map(|p| p.submit_key.to_string())
                .collect()
        },
        |page, output| describe::pilots(&page.items, clock::now(), output),
    )?;
    Ok(exit::OK)
}

/// `slots`
pub async fn slots(
    client: &Client,
    output: &Output,
    args: &Infrastructure,
) -> Result<i32, Failure> {
    let page = rows(&args.rows, output, async |page| {
        client.slots(args.site.as_ref(), &page).await
    })
    .await?;
    output.result(
        &page,
        |page| {
            page.items
                .iter()
                .map(|s| s.submit_key.to_string())
                .collect()
        },
        |page, output| describe::slots(&page.items, clock::now(), output),
    )?;
    Ok(exit::OK)
}

/// `admin`
pub async fn admin(client: &Client, output: &Output, args: Admin) -> Result<i32, Failure> {
    let site = match args {
        Admin::Drain(args) => client.drain(&args.site).await?,
        Admin::Undrain(args) => client.undrain(&args.site).await?,
        Admin::NewPilot(args) => return new_pilot(client, output, args).await,
    };
    output.result(
        &site,
        |site| vec![site.name.to_string()],
        |site, output| describe::sites(std::slice::from_ref(site), output),
    )?;
    Ok(exit::OK)
}

async fn new_pilot(client: &Client, output: &Output, args: NewPilot) -> Result<i32, Failure> {
    let fail = |source| Failure::File {
        what: "write the token to",
        path: args.token_to.clone().unwrap_or_default(),
        source,
    };
    // Opened first: a token that can't be written would be lost.
    let mut file = match &args.token_to {
        Some(path) => Some(
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(fail)?,
        ),
        None => None,
    };
    let request = HandPilotRequest {
        site: args.site.clone(),
    };
    let pilot = match client.hand_pilot(&request).await {
        Ok(pilot) => pilot,
        Err(error) => {
            if let Some(path) = &args.token_to {
                std::fs::remove_file(path).map_err(fail)?;
            }
            return Err(error.into());
        }
    };
    if let Some(file) = &mut file {
        writeln!(file, "{}", pilot.token)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
    }
    let key = &pilot.submit_key;
    match (output.detail, &args.token_to) {
        (Detail::Json, Some(path)) => {
            output.json(&json!({"submit_key": key, "token_file": path}))?;
        }
        (Detail::Json, None) => output.json(&pilot)?,
        (Detail::Quiet, Some(_)) => output.line(key.as_str())?,
        (Detail::Quiet, None) => output.line(&format!("{key} {}", pilot.token))?,
        (Detail::Human, Some(path)) => {
            output.line(&format!("submit_key = \"{key}\""))?;
            output.line(&format!("token_file = \"{}\"", path.display()))?;
        }
        (Detail::Human, None) => {
            output.line(&format!("submit_key = \"{key}\""))?;
            output.line(&format!("token: {}", pilot.token))?;
        }
    }
    Ok(exit::OK)
}
