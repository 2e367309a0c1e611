//! ARCHITECTURE.md stays true: what it names in backticks, and the files in its pictures, are there.

use std::fs;
use std::path::Path;

const FOLDERS: [&str; 6] = ["src", "tiers", "recording", "tools", "bench", "tests"];

/// What the page is held against.
#[derive(Default)]
struct Sources {
    /// The names of all files and folders.
    names: Vec<String>,
    texts: Vec<String>,
}

impl Sources {
    fn read(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder of the workspace can be read") {
            let path = entry.expect("an entry can be read").path();
            self.names.push(path.file_name().expect("it has a name").to_string_lossy().into_owned());
            if path.is_dir() {
                self.read(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                self.texts.push(fs::read_to_string(&path).expect("a source file is text"));
            }
        }
    }

    /// Whether some file defines `item` and, for `Type::item`, speaks of the type too.
    fn define(&self, name: &str) -> bool {
        let (owner, item) = name.rsplit_once("::").unwrap_or(("", name));
        self.texts.iter().any(|text| defines(text, item) && (owner.is_empty() || has_word(text, owner)))
    }
}

/// Whether `text` has a function, type, constant, field or variant called `item`.
fn defines(text: &str, item: &str) -> bool {
    let keywords = ["fn", "struct", "enum", "trait", "type", "const", "static"];
    let is_defined = |line: &str| {
        let words: Vec<&str> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        words.windows(2).any(|pair| keywords.contains(&pair[0]) && pair[1] == item)
    };
    let is_field_or_variant = |line: &str| {
        let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        let rest = line.trim_start_matches("pub ").strip_prefix(item);
        rest.is_some_and(|rest| [":", ",", "(", " {"].iter().any(|after| rest.starts_with(after)))
    };
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| is_defined(line) || is_field_or_variant(line))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|found| found == word)
}

#[test]
fn what_the_architecture_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page is there");
    let mut sources = Sources::default();
    FOLDERS.iter().for_each(|folder| sources.read(&root.join(folder)));
    sources.names.extend(FOLDERS.map(String::from));
    let mut missing = Vec::new();
    for (index, part) in page.split("```").enumerate() {
        if index % 2 == 1 {
            let files = part.split_whitespace().map(|word| word.trim_end_matches([':', '.', ',']));
            let files = files.filter(|word| word.ends_with(".rs") || word.ends_with('/'));
            let is_gone = |word: &&str| {
                let last = word.trim_end_matches('/').rsplit('/').next().unwrap_or(word);
                !sources.names.iter().any(|name| name == last)
            };
            missing.extend(files.filter(is_gone).map(String::from));
            continue;
        }
        for name in part.split('`').skip(1).step_by(2) {
            let is_path = name.contains('/') || name.contains('.') || FOLDERS.contains(&name);
            let is_said_otherwise = name.starts_with("cargo ") || name.starts_with("--");
            let is_there = if is_path { root.join(name).exists() } else { sources.define(name) };
            if !is_there && !is_said_otherwise {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
    assert!(!defines("fn other() {}\n// fn gone() {}", "gone"), "a comment defines nothing");
}
