//! The direction in which data flows: what is below never imports what is above. Reads the
//! `use crate::` lines, and any other `crate::` path, of the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each module with those that it may use, besides itself.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("event", &[]),
    ("context", &[]),
    ("sink", &["event"]),
    ("record", &["context", "event", "said"]),
    ("journal", &["context", "crash_point", "event", "record"]),
    ("delivery", &["event", "journal", "sink"]),
    ("reader", &["event", "journal", "sink"]),
    // A sample store is written as the interceptors would, and some commands do a part of a worker's work.
    (
        "cli",
        &[
            "context", "delivery", "event", "reader", "record", "sink", "store", "temporal",
        ],
    ),
    (
        "store",
        &[
            "context",
            "crash_point",
            "delivery",
            "event",
            "journal",
            "reader",
            "record",
            "said",
            "sink",
        ],
    ),
    // Held ends are named by the journal's key and read back as events.
    (
        "temporal",
        &[
            "context",
            "crash_point",
            "event",
            "journal",
            "record",
            "said",
            "store",
        ],
    ),
];

/// What unit tests alone may use, wherever they are.
const FOR_TESTS: &str = "fuzz";

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The top-level modules that a source names through `crate::`.
fn used_modules(source: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (index, _) in source.match_indices("crate::") {
        let before = source[..index].chars().next_back();
        if before.is_some_and(|character| character.is_alphanumeric() || character == '_') {
            continue;
        }
        let rest = &source[index + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_i32;
            let mut word = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        used.push(std::mem::take(&mut word));
                        continue;
                    }
                    _ => {}
                }
                if depth == 0 {
                    word.push(character);
                }
            }
            used.push(word);
        } else {
            used.push(rest.to_owned());
        }
    }
    used.iter()
        .map(|path| {
            path.trim()
                .chars()
                .take_while(|character| character.is_alphanumeric() || *character == '_')
                .collect::<String>()
        })
        .filter(|module| !module.is_empty())
        .collect()
}

fn code_without_comments(source: &str) -> String {
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_reader_sees_single_and_grouped_paths() {
    let source = "use crate::{a::{b, c}, d};\nuse crate::e::F;\nlet x = crate::g::h();";
    assert_eq!(used_modules(source), ["a", "d", "e", "g"]);
}

#[test]
fn modules_only_use_what_is_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for (module, allowed) in ALLOWED {
        for path in sources(&root.join(module)) {
            let source = code_without_comments(&fs::read_to_string(&path).unwrap());
            for used in used_modules(&source) {
                assert!(
                    used == module || used == FOR_TESTS || allowed.contains(&used.as_str()),
                    "{} uses crate::{used}; {module} may use {allowed:?}",
                    path.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "only {checked} paths were seen");
}

#[test]
fn only_the_temporal_module_knows_the_sdk() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (module, _) in ALLOWED {
        for path in sources(&root.join(module)) {
            let source = code_without_comments(&fs::read_to_string(&path).unwrap());
            let knows = source.contains("temporalio_");
            assert!(
                module == "temporal" || !knows,
                "{} names the SDK",
                path.display()
            );
        }
    }
}
