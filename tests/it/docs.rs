// SPDX-License-Identifier: Apache-2.0
//! Whoever reads a citation in a clone of this repository finds what is cited: sections and notes of `docs/rules.md`, sections of
//! `docs/openbmc.md`, files that documents link to or name, the tests and traces that the rule book names, the tests that commands
//! and mutants name, and each diagnosis.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use acpi_stated::logic::diagnosis::Diagnosis;
use regex_lite::Regex;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(ROOT).join(file.as_ref())).expect("a text file of the repository")
}

/// The text files below this directory whose names end so.
fn files(directory: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(ROOT).join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "nothing is in {directory}");
    found.sort();
    found
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a regular expression")
}

/// "3.2", "4": the numbers of a page's headings.
fn sections(page: &str) -> BTreeSet<String> {
    let heading = regex(r"(?m)^#+ ([0-9]+(\.[0-9]+)?)\.? ");
    heading.captures_iter(page).map(|heading| heading[1].to_owned()).collect()
}

#[test]
fn what_is_cited_is_there() {
    let (rules, openbmc) = (read("docs/rules.md"), read("docs/openbmc.md"));
    let (of_rules, of_openbmc) = (sections(&rules), sections(&openbmc));
    let notes: BTreeSet<String> = regex(r"(?m)^\| ([0-9]+|[A-Z][0-9]+) \|")
        .captures_iter(&rules)
        .map(|note| note[1].to_owned())
        .collect();
    assert!(notes.len() > 40 && of_rules.len() > 10, "{notes:?} {of_rules:?}");
    let rule = regex(r"\b[Rr]ules ([0-9]+\.[0-9]+)");
    let fact = regex(r"\b[Oo]penbmc ([0-9]+(\.[0-9]+)?)");
    let note = regex(r"\bnote ([A-Z]?[0-9]+)\b");
    let elsewhere = regex(r"\b(design|contract) [0-9]|\b(design|style|stack|evidence|test-bench)\.md");
    let (mut cited, mut wrong) = (0, Vec::new());
    let all = ["src", "tests", "sim", "doubles", "model", "bench", "tools", "qemu", "docs", "host"];
    for file in all.iter().flat_map(|directory| files(directory, &[".rs", ".md", ".sh", ".patch", ".py"])) {
        if file.ends_with("tests/it/docs.rs") || file.ends_with("docs/rules.md") {
            continue;
        }
        let text = read(&file);
        let mut look = |pattern: &Regex, known: &dyn Fn(&str) -> bool| {
            for citation in pattern.captures_iter(&text) {
                cited += 1;
                if !citation.get(1).is_some_and(|what| known(what.as_str())) {
                    wrong.push(format!("{}: {}", file.display(), &citation[0]));
                }
            }
        };
        look(&rule, &|section| of_rules.contains(section));
        look(&fact, &|section| of_openbmc.contains(section));
        look(&note, &|note| notes.contains(note));
        look(&elsewhere, &|_| false);
    }
    assert!(cited > 150, "{cited} citations: the test looks past them");
    assert!(wrong.is_empty(), "what is cited is in no document here:\n{}", wrong.join("\n"));
}

#[test]
fn every_link_of_a_document_leads_to_a_file() {
    let link = regex(r"\]\(([^)#\s]+)(#[^)]*)?\)");
    let mut pages = files("docs", &[".md"]);
    pages.extend(["README.md", "CONTRIBUTING.md", "host/README.md"].map(|page| Path::new(ROOT).join(page)));
    let (mut links, mut wrong) = (0, Vec::new());
    for page in pages {
        for link in link.captures_iter(&read(&page)) {
            if link[1].contains("://") {
                continue;
            }
            links += 1;
            if !page.parent().expect("a directory").join(&link[1]).exists() {
                wrong.push(format!("{}: {}", page.display(), &link[1]));
            }
        }
    }
    assert!(links > 50, "{links} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A reader looks for what these pages name, where they name it.
#[test]
fn the_files_that_the_guides_name_are_there() {
    let named = regex(
        r"`((?:adapters|bench|dbus|docs|examples|host|logic|model|qemu|shell|sim|src|systemd|tests|tools|yocto)/[a-zA-Z0-9_./-]+)`",
    );
    let (mut paths, mut wrong) = (0, Vec::new());
    for page in ["CONTRIBUTING.md", "README.md", "docs/architecture.md"] {
        for path in named.captures_iter(&read(page)) {
            paths += 1;
            let places = [ROOT.to_owned(), format!("{ROOT}/src")];
            // A placeholder is in capitals.
            if !path[1].contains("NAME")
                && !places.iter().any(|place| Path::new(place).join(&path[1]).exists())
            {
                wrong.push(format!("{page}: {}", &path[1]));
            }
        }
    }
    assert!(paths > 50, "{paths} paths");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each where an operator looks for it.
#[test]
fn every_diagnosis_is_explained() {
    let catalog = read("systemd/acpi-stated.catalog");
    let pages = ["docs/rules.md", "docs/dbus-api.md", "docs/dbus/Tracker.interface.yaml"];
    let pages = pages.map(|page| (page, read(page)));
    let mut missing = Vec::new();
    for diagnosis in Diagnosis::ALL {
        let (name, id) = (diagnosis.name(), diagnosis.message_id());
        if !catalog.lines().any(|line| line.strip_prefix("-- ") == Some(id)) {
            missing.push(format!("systemd/acpi-stated.catalog: {name}, {id}"));
        }
        missing.extend(
            pages.iter().filter(|(_, text)| !text.contains(name)).map(|(page, _)| format!("{page}: {name}")),
        );
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_rule_book_names_tests_that_there_are() {
    let rules = read("docs/rules.md");
    let sources: String =
        ["src", "tests", "sim"].iter().flat_map(|of| files(of, &[".rs"])).map(read).collect();
    let (mut named, mut wrong) = (0, Vec::new());
    for trace in regex(r"`([0-9]{2}-[a-z0-9-]+)`").captures_iter(&rules) {
        named += 1;
        if !Path::new(ROOT).join(format!("tests/scenarios/{}.trace", &trace[1])).exists() {
            wrong.push(trace[1].to_owned());
        }
    }
    for test in regex(r"`([a-z_/0-9]+)::([a-z_0-9]+)`").captures_iter(&rules) {
        named += 1;
        let there = match test[1].split_once('/') {
            Some(("tests", module)) => tests_of("tests", module),
            Some(("sim", module)) => tests_of("sim/tests", module),
            Some(_) | None => sources.clone(),
        };
        if !there.contains(&format!("fn {}(", &test[2])) {
            wrong.push(test[0].to_owned());
        }
    }
    assert!(named > 150, "{named} tests");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The text of a module of the tests in this directory; nothing, if there is none.
fn tests_of(directory: &str, module: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(format!("{directory}/it/{module}.rs"))).unwrap_or_default()
}

/// `cargo test` says of a filter that matches nothing that all is well.
#[test]
fn the_commands_that_are_given_run_tests() {
    let command = regex(r"--test ([a-z_]+)(?: ([a-z_]+)::([a-z_0-9]*))?");
    let mut pages: Vec<_> = ["docs", "src", "tests", "sim", "tools"]
        .iter()
        .flat_map(|directory| files(directory, &[".rs", ".md", ".sh"]))
        .collect();
    pages.extend(
        ["README.md", "CONTRIBUTING.md", "dev", "host/README.md"].map(|page| Path::new(ROOT).join(page)),
    );
    let (mut given, mut wrong) = (0, Vec::new());
    for page in pages.iter().filter(|page| !page.ends_with("tests/it/docs.rs")) {
        for command in command.captures_iter(&read(page)) {
            given += 1;
            let part = |number| command.get(number).map_or("", |part| part.as_str());
            let runs = match part(2) {
                "" => part(1) == "it",
                module => ["tests", "sim/tests"]
                    .iter()
                    .any(|directory| tests_of(directory, module).contains(&format!("fn {}", part(3)))),
            };
            if part(1) != "it" || !runs {
                wrong.push(format!("{}: {}", page.display(), &command[0]));
            }
        }
    }
    assert!(given > 30, "{given} commands");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A name that is wrong would be noticed where that mutant is tried, which may be at night.
#[test]
fn the_tests_that_mutants_name_are_there() {
    let header = regex(r"(?m)^Test: (acpi-stated|acpi-sim) it ([a-z_]+)::([a-z_0-9]+)$");
    let (mut named, mut wrong) = (0, Vec::new());
    for patch in files("tests/mutants", &[".patch"]) {
        for test in header.captures_iter(&read(&patch)) {
            named += 1;
            let directory = if &test[1] == "acpi-sim" { "sim/tests" } else { "tests" };
            if !tests_of(directory, &test[2]).contains(&format!("fn {}(", &test[3])) {
                wrong.push(format!("{}: {}", patch.display(), &test[0]));
            }
        }
    }
    assert!(named > 30, "{named} tests");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A file that no `mod` names is not compiled, and nothing says so.
#[test]
fn every_file_of_tests_is_in_its_program() {
    for directory in ["tests/it", "tests/it/support", "sim/tests/it", "sim/tests/it/common"] {
        let directory = Path::new(ROOT).join(directory);
        let program =
            ["main.rs", "mod.rs"].iter().find_map(|name| fs::read_to_string(directory.join(name)).ok());
        let program = program.expect("main.rs or mod.rs");
        for entry in fs::read_dir(&directory).expect("a directory of the repository") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            let module = name.strip_suffix(".rs").unwrap_or(&name);
            let declared = program.lines().any(|line| {
                line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ") == Some(&format!("{module};"))
            });
            assert!(declared || module == "main" || module == "mod", "{}: {name}", directory.display());
        }
    }
}

/// The words of `pattern` in a file, from `from` up to `to`.
fn words_of(file: &str, from: &str, to: &str, pattern: &str) -> BTreeSet<String> {
    let text = read(file);
    let begin = text.find(from).unwrap_or_else(|| panic!("{file} has no {from}"));
    let end = text[begin..].find(to).expect("its end") + begin;
    regex(pattern).captures_iter(&text[begin..end]).map(|word| word[1].to_owned()).collect()
}

/// The compiler does not complete these: a diagnosis that `ALL` does not have is never raised, and a device that `DEVICES` does not
/// have is not tried dead, absent and of another kind.
#[test]
fn no_list_of_all_misses_one() {
    let variants = words_of("src/logic/diagnosis.rs", "pub enum Diagnosis {", "\n}", r"(?m)^    (\w+),$");
    let all = words_of("src/logic/diagnosis.rs", "pub const ALL", "];", r"Self::(\w+),");
    assert_eq!(variants, all, "Diagnosis::ALL");
    let devices = words_of("src/config/keys.rs", "pub enum Device {", "\n    }", r#"(?m)^        (\w+) = ""#);
    let tried = words_of("src/logic/chip/tests.rs", "const DEVICES", "];", r"Device::(\w+),");
    let read_by_a_driver = BTreeSet::from(["Hwmon".to_owned()]);
    assert_eq!(devices, &tried | &read_by_a_driver, "DEVICES of src/logic/chip/tests.rs");
    assert!(variants.len() > 10 && tried.len() > 5);
}
