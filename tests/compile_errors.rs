//! What the compiler says to programs that cannot work: each message says what to do.
//!
//! The programs are compiled against the library that this test was built with, by `rustc` alone, which takes no second.
#![cfg(feature = "full")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles, so that a failure of the others is not one of this test.
const RIGHT: &str = "
    use tower_identity::{Strategy, HeaderInjection, AwsSts};
    pub fn is_strategy<B, S: Strategy<B>>(_: &S) {}
    pub fn right(header: &HeaderInjection) { is_strategy::<String, _>(header) }
";

struct Compiler {
    library: PathBuf,
    folder: tempfile::TempDir,
}

impl Compiler {
    /// With the newest library that a right program compiles with. Others are of other features, or half replaced.
    fn new() -> Self {
        let dependencies = dependencies();
        let folder = tempfile::tempdir().unwrap();
        let mut libraries: Vec<_> = fs::read_dir(&dependencies)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.starts_with("libtower_identity-") && name.ends_with(".rlib")
            })
            .collect();
        libraries.sort_by_key(|path| path.metadata().and_then(|file| file.modified()).ok());
        let mut compiler = Self {
            library: PathBuf::new(),
            folder,
        };
        for library in libraries.into_iter().rev() {
            compiler.library = library;
            if compiler.errors(RIGHT).is_empty() {
                return compiler;
            }
        }
        panic!("no library of {} can be used", dependencies.display());
    }

    fn errors(&self, program: &str) -> String {
        let source = self.folder.path().join("program.rs");
        fs::write(&source, program).unwrap();
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--edition=2024", "--crate-type=lib", "--emit=metadata"])
            .args(["--cap-lints=allow", "--out-dir"])
            .arg(self.folder.path())
            .arg("-L")
            .arg(format!("dependency={}", dependencies().display()))
            .arg("--extern")
            .arg(format!("tower_identity={}", self.library.display()))
            .arg(&source)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        said
    }

    fn says(&self, program: &str, parts: &[&str]) {
        let said = self.errors(&format!("{RIGHT}\n{program}"));
        for part in parts {
            assert!(said.contains(part), "{part}\n\n{said}");
        }
    }
}

/// Where this test is, and what it was built of.
fn dependencies() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().map(Path::to_owned).unwrap()
}

#[test]
fn the_compiler_says_what_to_do() {
    let compiler = Compiler::new();
    compiler.says(
        "pub fn wrong(aws: &AwsSts) { is_strategy::<String, _>(aws) }",
        &[
            "AwsSts` is not a strategy for requests with the body `String`",
            "the body must be `Send` and `From<Bytes>`, as `Full<Bytes>` and `axum::body::Body` are",
        ],
    );
    compiler.says(
        "pub fn wrong() { is_strategy::<String, _>(&|| ()) }",
        &[
            "is not a strategy for requests with the body `String`",
            "`strategy_fn` makes a strategy of a closure",
        ],
    );
    compiler.says(
        "pub fn wrong(strategy: std::sync::Arc<tower_identity::strategy::TokenExchangeBuilder>) {
            is_strategy::<String, _>(&strategy)
        }",
        &[
            "TokenExchangeBuilder` is not a strategy",
            "`build()` one of a builder",
        ],
    );
    compiler.says(
        "pub fn wrong(
            file: &tower_identity::OutgoingAuthConfig,
            resources: &tower_identity::config::Resources<String>,
        ) {
            let _ = file.check(resources);
        }",
        &[
            "`String: From<",
            "Bytes>` is not satisfied",
            "required by a bound in `OutgoingAuthConfig::check`",
        ],
    );
}
