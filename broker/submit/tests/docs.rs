//! The examples in `docs/configuration` are right.

/// The TOML blocks of the request file's page are right requests.
#[test]
fn the_examples_of_the_request_file_are_right() {
    let page = include_str!("../../../docs/configuration/request.md");
    let examples: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let spec = protocol::workspace_file::parse_request("example", "/dir", example);
        assert!(spec.is_ok(), "{example}\n{spec:?}");
    }
}
