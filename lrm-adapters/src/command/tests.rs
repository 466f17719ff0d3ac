use super::*;

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

fn runner(millis: u64) -> Runner {
    Runner::new(Span::from_millis(millis))
}

#[tokio::test]
async fn an_answer_has_code_and_both_streams() {
    let out = runner(10_000)
        .run(&sh("echo out; echo err >&2; exit 3"))
        .await
        .unwrap();
    assert_eq!(out.code, Some(3));
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(out.complaint(), "exit code 3: err");
}

#[tokio::test]
async fn the_environment_is_scrubbed() {
    let mut runner = runner(10_000);
    runner.env.push(("EXTRA".into(), "1".into()));
    let out = runner.run(&["/usr/bin/env".to_owned()]).await.unwrap();
    let mut names: Vec<_> = out
        .stdout
        .lines()
        .filter_map(|l| l.split('=').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["EXTRA", "LC_ALL", "PATH"]);
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let script = format!("sleep 600 & echo $! > {}; wait", file.display());
    let error = runner(300).run(&sh(&script)).await.unwrap_err();
    assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
    assert!(!error.did_nothing());
    let child = std::fs::read_to_string(&file).unwrap();
    gone(child.trim()).await;
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 600",
        file.display()
    );
    let task = tokio::spawn(async move { runner(600_000).run(&sh(&script)).await.map(|_| ()) });
    eventually("the command runs", || file.exists()).await;
    task.abort();
    gone(std::fs::read_to_string(&file).unwrap().trim()).await;
}

#[tokio::test]
async fn a_process_left_behind_does_not_hold_the_answer() {
    let out = runner(60_000)
        .run(&sh("sleep 5 & echo done"))
        .await
        .unwrap();
    assert_eq!(out.stdout, "done\n");
}

#[tokio::test]
async fn what_was_never_started_has_done_nothing() {
    let error = runner(1000)
        .run(&["/no/such/program".to_owned()])
        .await
        .unwrap_err();
    assert!(error.did_nothing(), "{error}");
}

#[tokio::test]
async fn output_without_end_is_refused() {
    let error = runner(60_000)
        .run(&sh("head -c 40000000 /dev/zero"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommandError::TooMuchOutput { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_prefix_goes_before_the_command() {
    let mut runner = runner(10_000);
    runner.prefix = vec!["/usr/bin/env".into(), "MARK=yes".into()];
    let out = runner.run(&sh("echo $MARK")).await.unwrap();
    assert_eq!(out.stdout, "yes\n");
}

async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    eventually("the process is gone", || {
        std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "))
    })
    .await;
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {what}");
}
