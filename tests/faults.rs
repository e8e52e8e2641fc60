//! The table in `src/guide/faults.rs` is whole: each fault has a test, and a patch that can still put it in.
//! `tests/faults/run` puts them in.

use std::{
    collections::BTreeSet,
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

/// The numbers that must have a row. Rows of other numbers may be there, too.
const FAULTS: [RangeInclusive<usize>; 3] = [1..=60, 63..=76, 78..=82];

/// A row of the table.
struct Row {
    /// `F07`, or `F07-secret` for a variant of it.
    fault: String,
    file: String,
    test: String,
}

impl Row {
    fn number(&self) -> &str {
        &self.fault[..3]
    }

    fn patch(&self) -> PathBuf {
        crate_path(&format!("tests/faults/{}.patch", self.fault))
    }
}

fn crate_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn rows() -> Vec<Row> {
    let table = fs::read_to_string(crate_path("src/guide/faults.rs")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let cells = line.strip_prefix("//! | F")?.strip_suffix(" |")?;
        let cells: Vec<_> = cells.split(" | ").collect();
        let [number, _, file, test] = cells[..] else {
            panic!("{line}");
        };
        Some(Row {
            fault: format!("F{number}"),
            file: file.trim_matches('`').to_owned(),
            test: test.trim_matches('`').to_owned(),
        })
    });
    rows.collect()
}

#[test]
fn each_fault_has_a_row_and_its_test_is_found_by_its_number() {
    let rows = rows();
    let numbers: BTreeSet<_> = rows.iter().map(Row::number).collect();
    let all: Vec<_> = FAULTS
        .into_iter()
        .flatten()
        .map(|number| format!("F{number:02}"))
        .collect();
    assert!(all.iter().all(|number| numbers.contains(&**number)));
    for row in &rows {
        let tests = fs::read_to_string(crate_path(&format!("tests/{}.rs", row.file))).unwrap();
        assert!(tests.contains(&format!("fn {}(", row.test)), "{}", row.test);
        let number = format!("{}_", row.number().to_lowercase());
        assert!(row.test.contains(&number), "{} for {}", row.test, row.fault);
    }
    let named: BTreeSet<_> = rows.iter().map(|row| &row.fault).collect();
    assert_eq!(named.len(), rows.len(), "a fault has two rows");
}

#[test]
fn each_row_has_a_patch_that_says_what_it_does_and_each_patch_a_row() {
    let rows = rows();
    let files = fs::read_dir(crate_path("tests/faults")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let patches: BTreeSet<_> = files
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "patch")
        })
        .collect();
    let expected: BTreeSet<_> = rows.iter().map(Row::patch).collect();
    let odd: Vec<_> = patches.symmetric_difference(&expected).collect();
    assert!(odd.is_empty(), "{odd:?}");
    for patch in patches {
        let text = fs::read_to_string(&patch).unwrap();
        let description = text.lines().next().unwrap();
        assert!(description.ends_with('.'), "{}", patch.display());
        for line in text.lines().filter(|line| line.starts_with("--- ")) {
            assert!(line.starts_with("--- a/src/"), "{}", patch.display());
        }
    }
}

#[test]
fn each_patch_still_applies() {
    let failed: Vec<_> = rows()
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.fault, refusal(&row.patch())?)))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Why a patch does not apply. It is asked from within `src`, where Git takes no repository around it into account.
fn refusal(patch: &Path) -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut git = Command::new("git");
    git.args(["apply", "--check", "-p2"]).arg(patch);
    git.env("GIT_CEILING_DIRECTORIES", root);
    let mut gnu = Command::new("patch");
    gnu.args(["-p2", "--dry-run", "--force", "-i"]).arg(patch);
    for mut command in [git, gnu] {
        match command.current_dir(crate_path("src")).output() {
            Ok(output) if output.status.success() => return None,
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                return Some(String::from_utf8_lossy(&said).into_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{command:?}: {error}"),
        }
    }
    panic!("neither `git` nor `patch` is here to see whether the patches apply");
}
