//! Inputs for proptest: the seeds of a kind, changed here and there, and bytes of any kind.

use std::{fmt, fs, path::Path};

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

/// Has `check` look at each seed of `kind`, and at so many inputs that are none.
pub(crate) fn hold(kind: &str, cases: u32, check: fn(&[u8])) {
    let seeds = seeds(kind);
    for seed in &seeds {
        check(&seed.0);
    }
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&inputs(seeds), |input| {
        check(&input.0);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Bytes that show themselves as text.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

fn seeds(kind: &str) -> Vec<Input> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/hostile_input/seeds")
        .join(kind);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{directory:?} is empty");
    paths
        .iter()
        .map(|path| Input(fs::read(path).unwrap()))
        .collect()
}

fn inputs(seeds: Vec<Input>) -> impl Strategy<Value = Input> {
    let changed = (select(seeds.clone()), vec(change(seeds), 1..6)).prop_map(|(seed, changes)| {
        let mut bytes = seed.0;
        for change in &changes {
            change.apply(&mut bytes);
        }
        Input(bytes)
    });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..256).prop_map(Input)]
}

#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Word(Index, &'static str),
    Removal(Index, Index),
    Repetition(Index, usize, usize),
    /// A part of another seed, in place of as much.
    Part(Input, Index, Index, Index),
}

/// What parsers stumble over.
const WORDS: [&str; 44] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\t",
    " ",
    "\u{feff}",
    "\u{202e}",
    "é",
    "\u{10ffff}",
    "\"",
    "\\",
    "\\\"",
    "\\u0000",
    "\\ud800",
    ",",
    ":",
    "=",
    "@",
    "@evil.example",
    "//evil.example",
    "\\\\evil.example",
    ":443",
    ":0",
    "%00",
    "%2f",
    "#",
    "?",
    "..",
    "*",
    "null",
    "true",
    "[]",
    "{}",
    "[[[[[[[[[[[[[[[[",
    "-1",
    "0",
    "1e400",
    "9223372036854775808",
    "&#0;",
    "<![CDATA[",
    "---\n",
    "none",
    "https://evil.example",
];

fn change(seeds: Vec<Input>) -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (at(), select(&WORDS[..])).prop_map(|(at, word)| Change::Word(at, word)),
        (at(), at()).prop_map(|(from, to)| Change::Removal(from, to)),
        (at(), 1..64_usize, prop_oneof![Just(2_usize), Just(40)])
            .prop_map(|(at, length, times)| Change::Repetition(at, length, times)),
        (select(seeds), at(), at(), at())
            .prop_map(|(seed, from, to, at)| Change::Part(seed, from, to, at)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
        match self {
            Self::Byte(index, byte) => {
                let at = index.index(bytes.len().max(1));
                if let Some(changed) = bytes.get_mut(at) {
                    *changed = *byte;
                }
            }
            Self::Word(index, word) => {
                let at = at(index, bytes);
                bytes.splice(at..at, word.bytes());
            }
            Self::Removal(one, other) => {
                let (one, other) = (at(one, bytes), at(other, bytes));
                // More than a few would leave nothing of the seed.
                let (from, to) = (one.min(other), one.max(other));
                bytes.drain(from..to.min(from + 24));
            }
            Self::Repetition(index, length, times) => {
                let from = at(index, bytes);
                let to = bytes.len().min(from + length);
                let repeated = bytes[from..to].repeat(*times);
                bytes.splice(from..to, repeated);
            }
            Self::Part(seed, from, to, index) => {
                let (one, other) = (at(from, &seed.0), at(to, &seed.0));
                let part = &seed.0[one.min(other)..one.max(other)];
                let at = at(index, bytes);
                let end = bytes.len().min(at + part.len());
                bytes.splice(at..end, part.iter().copied());
            }
        }
    }
}
