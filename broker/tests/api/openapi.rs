//! The description has every call that the contract lists, and no other.

use std::collections::BTreeSet;

const CONTRACT: &str = include_str!("../../protocol/src/api.rs");

/// `METHOD /path` of every call in the table of `protocol::api`.
fn listed() -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for row in CONTRACT.lines().filter_map(|l| l.strip_prefix("//! | `")) {
        let cell = row.split(" | ").next().unwrap();
        let (mut method, mut before) = ("", String::new());
        for word in cell.split('`').flat_map(str::split_whitespace) {
            let word = word.trim_end_matches(',').split('?').next().unwrap();
            match word {
                "GET" | "POST" => method = if word == "GET" { "get" } else { "post" },
                path if path.starts_with('/') => {
                    // `/v1/workspaces/{id}/cancel`, `/suspend`: the same but for its last part.
                    let path = if path.starts_with("/v1") {
                        path.to_owned()
                    } else {
                        let stem = before.split_once("/register").map(|(stem, _)| stem);
                        let stem = stem.unwrap_or_else(|| before.rsplit_once('/').unwrap().0);
                        format!("{stem}{path}")
                    };
                    calls.insert(format!("{method} {}", path.replace("{ws}", "{workspace}")));
                    if before.is_empty() || path.starts_with("/v1") && !path.contains("console") {
                        before = path;
                    }
                }
                _ => {}
            }
        }
    }
    calls
}

#[test]
fn every_call_of_the_contract_is_described() {
    let description = serde_json::to_value(broker::http::description()).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            described.insert(format!("{method} {path}"));
            let open = ["/v1/health", "/v1/openapi.json"].contains(&path.as_str());
            assert_eq!(call["security"].is_null(), open, "{method} {path}");
            let summary = call["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{method} {path} has no summary");
        }
    }
    assert!(listed().len() > 20, "{:?}", listed());
    assert_eq!(described, listed());
}

#[test]
fn every_reference_leads_somewhere() {
    let description = serde_json::to_value(broker::http::description()).unwrap();
    let text = description.to_string();
    let names: BTreeSet<&str> = text
        .split("#/components/schemas/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(
        names.contains("WorkspaceView") && names.contains("SyncRequest"),
        "{names:?}"
    );
    for name in names {
        assert!(
            !description["components"]["schemas"][name].is_null(),
            "{name} is missing"
        );
    }
}
