//! Which hypervisors work here.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protocol::finding::Finding;
use protocol::slot_file::{Accelerator, HypervisorKind, HypervisorSection};

use crate::host::{DEFAULT_QEMU, is_executable, parse_version};

/// How long a hypervisor may take to print its version.
const LIMIT: Duration = Duration::from_secs(10);
/// Where a Xen kernel says what this domain may do.
const XEN_CAPABILITIES: &str = "/proc/xen/capabilities";
/// Where Linux says which pages shared memory without a name has.
const SHARED_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// What the slot wants of a hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    /// There is no slot.
    Unknown,
    /// The slot's own.
    This,
    /// Another one is configured.
    Other,
}

pub(super) async fn look(section: Option<&HypervisorSection>) -> Vec<Finding> {
    let want = match section.map(|s| s.kind) {
        None => Want::Unknown,
        Some(HypervisorKind::Qemu) => Want::This,
        Some(HypervisorKind::Xen | HypervisorKind::Null) => Want::Other,
    };
    let program = section
        .filter(|s| s.kind == HypervisorKind::Qemu)
        .and_then(|s| s.binary.clone())
        .unwrap_or_else(|| PathBuf::from(DEFAULT_QEMU));
    vec![
        qemu(&program, want).await,
        kvm(want, section.and_then(|s| s.accelerator)),
        shared_pages(&std::fs::read_to_string(SHARED_PAGES).unwrap_or_default()),
        xen(Path::new(XEN_CAPABILITIES), is_executable(Path::new("xl"))),
    ]
}

async fn qemu(program: &Path, want: Want) -> Finding {
    let check = "hypervisor.qemu";
    let name = program.display();
    if !is_executable(program) {
        let text = format!("`{name}` is not on this node");
        return match want {
            Want::This => Finding::problem(
                check,
                text,
                "install QEMU on the nodes, or set `hypervisor.binary` to its full path there",
            ),
            Want::Unknown => Finding::warning(
                check,
                text,
                "install QEMU if guests are to run here by QEMU",
            ),
            Want::Other => Finding::ok(check, text),
        };
    }
    match version(program).await {
        Ok(version) => Finding::ok(check, format!("`{name}` is QEMU {version}")),
        Err(why) => {
            let text = format!("`{name} --version` does not tell its version: {why}");
            let advice = "run it on a node by hand; a library may be missing there";
            match want {
                Want::This => Finding::problem(check, text, advice),
                Want::Unknown | Want::Other => Finding::warning(check, text, advice),
            }
        }
    }
}

async fn version(program: &Path) -> Result<String, String> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, output)
        .await
        .map_err(|_| format!("no answer within {LIMIT:?}"))?
        .map_err(|e| e.to_string())?;
    parse_version(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{}, saying `{}`", output.status, said.trim())
    })
}

fn kvm(want: Want, accelerator: Option<Accelerator>) -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    judge_kvm(want, accelerator, opened.err())
}

fn judge_kvm(
    want: Want,
    accelerator: Option<Accelerator>,
    refused: Option<std::io::Error>,
) -> Finding {
    let check = "hypervisor.kvm";
    match (refused, want, accelerator) {
        (None, Want::This, Some(Accelerator::Tcg)) => Finding::warning(
            check,
            "/dev/kvm can be used, and `accelerator = \"tcg\"` is configured",
            "write accelerator = \"kvm\": guests run much faster",
        ),
        (None, ..) => Finding::ok(check, "/dev/kvm can be used"),
        (Some(e), Want::This, Some(Accelerator::Kvm)) => Finding::problem(
            check,
            format!("/dev/kvm cannot be opened: {e}"),
            "add the pilots' account to the group that owns it on the nodes, or write accelerator \
             = \"tcg\"",
        ),
        (Some(e), ..) => Finding::ok(
            check,
            format!("/dev/kvm cannot be opened ({e}); nothing here needs it"),
        ),
    }
}

/// A guest's memory is shared memory. Filling it page by page is what a resume waits for longest.
fn shared_pages(modes: &str) -> Finding {
    let check = "hypervisor.pages";
    let chosen = modes
        .split_whitespace()
        .find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
    Finding::ok(
        check,
        match chosen {
            Some(mode @ ("always" | "within_size" | "force")) => {
                format!("guests' memory has huge pages (`{mode}`)")
            }
            Some(mode) => format!(
                "guests' memory has small pages (`{mode}`); with `within_size` in {SHARED_PAGES} a \
                 resume takes about half the time"
            ),
            None => "this kernel has no huge pages for guests' memory".to_owned(),
        },
    )
}

fn xen(capabilities: &Path, has_xl: bool) -> Finding {
    let check = "hypervisor.xen";
    let control = std::fs::read_to_string(capabilities)
        .is_ok_and(|text| text.split_whitespace().any(|word| word == "control_d"));
    let text = match (control, has_xl) {
        (true, true) => "this is a Xen control domain, and `xl` is there",
        (true, false) => "this is a Xen control domain without `xl`",
        (false, true) => "`xl` is there, and this is no Xen control domain",
        (false, false) => "no Xen here",
    };
    Finding::ok(check, text)
}

#[cfg(test)]
mod tests {
    use protocol::finding::Level;

    use super::*;

    #[tokio::test]
    async fn a_missing_hypervisor_is_a_problem_only_where_it_is_wanted() {
        let missing = Path::new("/no/such/qemu");
        for (want, level) in [
            (Want::This, Level::Problem),
            (Want::Unknown, Level::Warning),
            (Want::Other, Level::Ok),
        ] {
            let found = qemu(missing, want).await;
            assert_eq!(found.level, level, "{found}");
            assert_eq!(found.advice.is_some(), level != Level::Ok, "{found}");
        }
        // It is there, and is none.
        let found = qemu(Path::new("/bin/false"), Want::This).await;
        assert_eq!(found.level, Level::Problem, "{found}");
    }

    #[test]
    fn kvm_is_judged_by_what_is_configured() {
        let no = || Some(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        let level = |accelerator, refused| judge_kvm(Want::This, accelerator, refused).level;
        assert_eq!(level(Some(Accelerator::Kvm), None), Level::Ok);
        assert_eq!(level(Some(Accelerator::Kvm), no()), Level::Problem);
        assert_eq!(level(Some(Accelerator::Tcg), None), Level::Warning);
        assert_eq!(level(Some(Accelerator::Tcg), no()), Level::Ok);
        assert_eq!(judge_kvm(Want::Unknown, None, no()).level, Level::Ok);
    }

    #[test]
    fn the_pages_of_shared_memory_are_told() {
        for (modes, says) in [
            ("always within_size advise [never] deny force", "`never`"),
            ("always [within_size] advise never deny force", "has huge"),
            ("", "has no huge"),
        ] {
            let found = shared_pages(modes);
            assert_eq!(found.level, Level::Ok);
            assert!(found.text.contains(says), "{found}");
        }
    }

    #[test]
    fn xen_is_told_by_its_control_domain() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("capabilities");
        assert_eq!(xen(&file, false).text, "no Xen here");
        std::fs::write(&file, "control_d\n").unwrap();
        assert!(
            xen(&file, true)
                .text
                .starts_with("this is a Xen control domain, and")
        );
    }
}
