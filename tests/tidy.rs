//! Rules of STYLE.md that a program can check: where `unsafe` and the clock live, which room imports which, what a
//! dependency and a protocol function must say of themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that may read the operating system's clock, and why.
const CLOCK_READERS: [(&str, &str); 4] = [
    ("src/shard/clock.rs", "the one reader of the data path: shards hand time to the cores"),
    ("src/store/writer.rs", "times its commits and gathers a batch for a bounded while"),
    ("src/store/open.rs", "waits a bounded while for a predecessor's lock"),
    ("src/demo/", "plays the peers of the appliance, as tests do"),
];

/// Rooms whose public functions are protocol and cite it.
const PROTOCOL_ROOMS: [&str; 4] = ["src/sip/", "src/sdp/", "src/msrp/", "src/cpim/"];

#[test]
fn unsafe_stays_in_the_ring() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        if file.path.starts_with("src/uring/") {
            continue;
        }
        for (number, line) in file.code_lines() {
            let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            if words.any(|word| word == "unsafe") {
                wrong.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("unsafe outside src/uring", &wrong);
}

#[test]
fn only_named_files_read_the_clock() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        if CLOCK_READERS.iter().any(|(path, _)| file.path.starts_with(path)) {
            continue;
        }
        for (number, line) in file.production_lines() {
            if ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now"]
                .iter()
                .any(|call| line.contains(call))
            {
                wrong.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("the OS clock is read outside its files", &wrong);
}

#[test]
fn nothing_is_left_for_later() {
    let markers = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
    ];
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "benches", "loadtest", "fuzz"] {
        for file in sources(dir) {
            for (number, line) in file.text.lines().enumerate() {
                if markers.iter().any(|marker| line.contains(marker)) {
                    wrong.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
    }
    assert_none("unfinished code", &wrong);
}

#[test]
fn production_code_does_not_unwrap() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        for (number, line) in file.production_lines() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                wrong.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("unwrap outside tests (use expect with the reason why it cannot fail)", &wrong);
}

#[test]
fn rooms_import_only_rooms_of_a_lower_level() {
    let levels = room_levels();
    let mut wrong = Vec::new();
    for file in sources("src") {
        let Some((room, _)) = file.path.trim_start_matches("src/").split_once('/') else {
            continue; // main.rs and lib.rs see everything.
        };
        let Some(own) = levels.get(room) else {
            wrong.push(format!("{}: the room {room} is not in the table of src/lib.rs", file.path));
            continue;
        };
        let code: String = file.production_lines().map(|(_, line)| format!("{line}\n")).collect();
        for imported in crate_paths(&code) {
            let allowed = imported == room || levels.get(imported.as_str()).is_some_and(|level| level < own);
            if !allowed && levels.contains_key(imported.as_str()) {
                wrong.push(format!("{}: {room} (level {own}) imports {imported}", file.path));
            }
        }
    }
    wrong.dedup();
    assert_none("imports against the order of rooms", &wrong);
}

#[test]
fn protocol_functions_name_their_specification() {
    let (mut wrong, mut weak) = (Vec::new(), Vec::new());
    for room in PROTOCOL_ROOMS {
        for file in sources(room.trim_end_matches('/')) {
            let module_cites = file.text.lines().take_while(|line| line.starts_with("//!")).any(cites);
            let mut docs: Vec<&str> = Vec::new();
            let mut impl_cites = false;
            for (index, line) in file.text.lines().enumerate() {
                if file.is_test_line(index) {
                    break;
                }
                let trimmed = line.trim();
                if let Some(doc) = trimmed.strip_prefix("///") {
                    docs.push(doc.trim());
                    continue;
                }
                if trimmed.starts_with("#[") || trimmed.starts_with("#![") {
                    continue;
                }
                if !line.starts_with(' ') && (line.starts_with("impl") || line.starts_with("pub ")) {
                    impl_cites =
                        docs.iter().any(|doc| cites(doc)) || (line.starts_with("impl") && type_cites(&file, line));
                }
                if is_public_function(trimmed) {
                    let place = format!("{}:{}: {trimmed}", file.path, index + 1);
                    let own = docs.iter().any(|doc| cites(doc));
                    if docs.is_empty() || !(own || impl_cites || module_cites) {
                        wrong.push(place.clone());
                    }
                    if !docs.iter().rfind(|doc| !doc.is_empty()).is_some_and(|doc| cites(doc) && doc.ends_with('.')) {
                        weak.push(place);
                    }
                }
                docs.clear();
            }
        }
    }
    // STYLE.md asks each of them for its own section; accessors often have none, so that is a list to look at.
    println!("{} public protocol functions do not end their documentation with a citation of their own:", weak.len());
    for place in &weak {
        println!("  {place}");
    }
    assert_none("public protocol functions without documentation, or in a file that cites nothing", &wrong);
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let mut wrong = Vec::new();
    for manifest in ["Cargo.toml", "loadtest/Cargo.toml", "fuzz/Cargo.toml"] {
        let Ok(text) = std::fs::read_to_string(root().join(manifest)) else { continue };
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.trim_end_matches(']').ends_with("dependencies");
            } else if inside && !line.trim().is_empty() && !line.starts_with('#') {
                let reason = line.split_once('#').map(|(_, reason)| reason.trim()).unwrap_or_default();
                // Our own package beside it needs no reason.
                if reason.len() < 5 && !line.contains("path = ") {
                    wrong.push(format!("{manifest}: {line}"));
                }
            }
        }
    }
    assert_none("dependencies without a reason", &wrong);
}

#[test]
fn nothing_names_a_place_on_one_machine() {
    let places = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/"), concat!("/home", "/")];
    let mut wrong = Vec::new();
    for path in files(&root(), &[]) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let named = places.iter().any(|place| {
                line.match_indices(place).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '>' | '}' | '_' | '-'))
                })
            });
            if named {
                wrong.push(format!("{}:{}: {}", relative(&path), number + 1, line.trim()));
            }
        }
    }
    assert_none("paths of one machine", &wrong);
}

#[test]
fn the_readme_names_the_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains("cargo test"), "README.md names the test command");
    assert!(readme.contains("cargo run --release -- demo"), "README.md names the command of the main job");
}

// Helpers.

struct Source {
    path: String,
    text: String,
    /// The file is a test module of its own.
    is_test: bool,
}

impl Source {
    /// Lines with comments, strings and characters blanked out, numbered from one.
    fn code_lines(&self) -> impl Iterator<Item = (usize, String)> {
        let code = without_comments_and_strings(&self.text);
        code.lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into_iter()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// The same without the tests at the bottom of the file.
    fn production_lines(&self) -> impl Iterator<Item = (usize, String)> {
        let end = self.tests_start();
        self.code_lines().filter(move |(number, _)| *number <= end)
    }

    /// How many lines come before the test module; whole files of tests have none.
    fn tests_start(&self) -> usize {
        if self.is_test {
            return 0;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let start = lines.windows(2).position(|pair| {
            pair[0].trim().starts_with("#[cfg(test)]") && !pair[0].starts_with(' ') && pair[1].contains("mod ")
        });
        match start {
            // A test module in a file of its own ends nothing here.
            Some(index) if !lines[index + 1].trim_end().ends_with(';') => index,
            _ => lines.len(),
        }
    }

    fn is_test_line(&self, index: usize) -> bool {
        index >= self.tests_start()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Every text file of the project below a folder; build results and data left out.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name == ".git" {
                continue; // In a work tree this is a file.
            }
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | "data" | "corpus" | "artifacts") {
                    waiting.push(path);
                }
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if extensions.is_empty() || extensions.contains(&extension.as_str()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources(dir: &str) -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("source is UTF-8");
        Source { path: relative(&path), text, is_test: false }
    };
    let mut sources: Vec<Source> = files(&root().join(dir), &["rs"]).into_iter().map(read).collect();
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        source.is_test = tests.iter().any(|prefix| {
            source.path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
    sources
}

/// Where the modules live that a file declares for tests alone, without `.rs`.
fn test_modules(source: &Source) -> Vec<String> {
    let (dir, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let dir = if matches!(name, "mod.rs" | "lib.rs" | "main.rs") {
        dir.to_owned()
    } else {
        format!("{dir}/{}", name.trim_end_matches(".rs"))
    };
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    let modules = pairs.filter_map(|pair| pair[1].rsplit_once("mod ")?.1.strip_suffix(';'));
    modules.map(|module| format!("{dir}/{module}")).collect()
}

/// The level of each room, from the table in src/lib.rs.
fn room_levels() -> BTreeMap<String, u32> {
    let map = std::fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let mut levels = BTreeMap::new();
    for line in map.lines().filter_map(|line| line.strip_prefix("//! |")) {
        let mut cells = line.split('|').map(str::trim);
        let (Some(level), Some(rooms)) = (cells.next(), cells.next()) else { continue };
        // A room without a level stands above all others: it may import them, and none imports it.
        let Some(level) = (if level == "-" { Some(u32::MAX) } else { level.parse().ok() }) else { continue };
        for room in rooms.split(',') {
            levels.insert(room.trim().trim_matches(['[', ']', '`']).to_owned(), level);
        }
    }
    assert!(levels.len() >= 5, "the table of rooms in src/lib.rs: {levels:?}");
    levels
}

/// The rooms that code names by `crate::room` or `crate::{room, …}`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (1, String::new());
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => {
                        rooms.push(first_word(&item));
                        item.clear();
                        continue;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                item.push(character);
            }
            rooms.push(first_word(&item));
        } else {
            rooms.push(first_word(rest));
        }
    }
    rooms
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn is_public_function(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("pub ") else { return false };
    let mut words = rest.split_whitespace();
    words.by_ref().find(|word| !matches!(*word, "const" | "async" | "unsafe")) == Some("fn")
}

fn cites(text: &str) -> bool {
    text.match_indices("RFC ").any(|(at, _)| {
        let digits: String = text[at + 4..].chars().take_while(char::is_ascii_digit).collect();
        digits.len() == 4
    })
}

/// True when the documentation of the type that an `impl` line names cites something.
fn type_cites(file: &Source, line: &str) -> bool {
    let name = line.trim_start_matches("impl").trim_start_matches(|c: char| c == '<' || c == '\'' || c.is_whitespace());
    let name = name.rsplit(" for ").next().unwrap_or_default();
    let name = name.rsplit("> ").next().unwrap_or_default();
    let name = first_word(name);
    let mut docs = Vec::new();
    for line in file.text.lines() {
        let trimmed = line.trim();
        if let Some(doc) = trimmed.strip_prefix("///") {
            docs.push(doc);
        } else if trimmed.starts_with("pub ") && trimmed.split(|c: char| !c.is_alphanumeric()).any(|word| word == name)
        {
            return docs.iter().any(|doc| cites(doc));
        } else if !trimmed.starts_with("#[") {
            docs.clear();
        }
    }
    false
}

/// Blanks comments, string and character literals, keeping line ends.
fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |out: &mut String, from: &str| out.extend(from.chars().filter(|c| *c == '\n'));
    while at < bytes.len() {
        let rest = &text[at..];
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = raw_string_len(rest) {
            len
        } else if rest.starts_with('"') {
            string_len(rest)
        } else if let Some(len) = character_len(rest) {
            len
        } else {
            let character = rest.chars().next().expect("not at the end");
            out.push(character);
            // A raw string's prefix must not be looked for in the middle of a word.
            at += character.len_utf8();
            if character.is_alphanumeric() || character == '_' {
                let word: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                out.push_str(&word);
                at += word.len();
            }
            continue;
        };
        out.push(' ');
        blank(&mut out, &rest[..len]);
        at += len;
    }
    out
}

fn raw_string_len(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close)?;
    Some(text.len() - body.len() + end + close.len())
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            _ => escaped = character == '\\' && !escaped,
        }
    }
    text.len()
}

/// A character literal, as opposed to a lifetime.
fn character_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    if let Some(rest) = body.strip_prefix('\\') {
        let skip = rest.chars().next()?.len_utf8();
        return rest[skip..].find('\'').map(|end| 2 + skip + end + 1);
    }
    let character = body.chars().next()?;
    body[character.len_utf8()..].starts_with('\'').then(|| 2 + character.len_utf8())
}

#[track_caller]
fn assert_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_checks_see_code_and_not_text() {
    let code = without_comments_and_strings(
        "let a = \"unsafe { }\"; // unsafe\nlet b = 'x'; let c: &'static str = r#\"unsafe\"#; d",
    );
    assert!(!code.contains("unsafe"), "{code}");
    assert_eq!(code.lines().count(), 2);
    assert!(code.contains("let c: &'static str"), "{code}");
    assert_eq!(crate_paths("use crate::{base::id, sip::{a, b}}; crate::store::x; $crate::y"), ["base", "sip", "store"]);
    assert!(is_public_function("pub const fn a()") && !is_public_function("pub(crate) fn a()"));
    assert!(cites("As RFC 3261 §8 has it.") && !cites("RFC nnnn"));
}
