//! `list`, `show`, `explain`.

use protocol::api::Page;
use protocol::codes::exit;

use crate::cli::{List, One, Rows};
use crate::client::{Client, ClientError, PageRequest, WorkspaceFilter};
use crate::clock;
use crate::failure::Failure;
use crate::output::{Output, describe};
use crate::resolve;

/// `list`
pub async fn list(client: &Client, output: &Output, args: List) -> Result<i32, Failure> {
    let filter = WorkspaceFilter {
        state: args.state,
        name: args.name,
    };
    let page = rows(&args.rows, output, async |page| {
        client.workspaces(&filter, &page).await
    })
    .await?;
    output.result(
        &page,
        |page| page.items.iter().map(|w| w.id.to_string()).collect(),
        |page, output| describe::workspaces(&page.items, clock::now(), output),
    )?;
    Ok(exit::OK)
}

/// Gets the rows that are wanted, in as many parts as it takes.
pub async fn rows<T>(
    wanted: &Rows,
    output: &Output,
    get: impl AsyncFn(PageRequest) -> Result<Page<T>, ClientError>,
) -> Result<Page<T>, Failure> {
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let mut all = Page {
        items: Vec::new(),
        next: None,
    };
    loop {
        let missing = wanted
            .limit
            .saturating_sub(u32::try_from(all.items.len()).unwrap_or(u32::MAX));
        let part = get(PageRequest {
            limit: Some(if wanted.all { 500 } else { missing }),
            after: all.next.clone(),
        })
        .await?;
        // A broker that gives the same place again would keep us for ever.
        let stuck = part.next.is_some() && part.next == all.next;
        all.items.extend(part.items);
        all.next = part.next;
        if all.next.is_none() || stuck || (!wanted.all && all.items.len() >= limit) {
            break;
        }
    }
    if all.next.is_some() {
        output.note("there are more; use `--all` or a higher `--limit`");
    }
    Ok(all)
}

/// `show`
pub async fn show(client: &Client, output: &Output, args: &One) -> Result<i32, Failure> {
    let view = resolve::workspace(client, &args.id).await?;
    output.result(
        &view,
        |view| vec![view.id.to_string()],
        |view, _| describe::workspace(view, clock::now()),
    )?;
    Ok(exit::OK)
}

/// `explain`
pub async fn explain(client: &Client, output: &Output, args: &One) -> Result<i32, Failure> {
    let view = resolve::workspace(client, &args.id).await?;
    let explanation = client.explain(&view.id).await?;
    output.result(
        &explanation,
        |explanation| explanation.sentences.clone(),
        |explanation, _| describe::explanation(explanation),
    )?;
    Ok(exit::OK)
}
