// SPDX-License-Identifier: Apache-2.0
//! The structure of the house, read from its `use` lines: no circle of files in `src/`, `sim/src/` or `doubles/src/`, and what is pure or
//! inside knows nothing of what is around it. Tests may look wherever they want.
#![allow(missing_docs, clippy::expect_used, reason = "a test that cannot go on says so and fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which module imports which: the imports of one crate, by module path.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// `src/logic/machine/gate.rs` is `logic::machine::gate`.
fn module_of(root: &Path, file: &Path) -> String {
    let below = file.strip_prefix(root).expect("below its root").with_extension("");
    let names: Vec<_> = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let names = names.join("::");
    names.strip_suffix("::mod").unwrap_or(if names == "lib" { "" } else { &names }).to_owned()
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn flat(tree: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for character in tree.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("one at least").push(character);
    }
    let one = |part: &String| {
        let part = part.trim();
        match part.split_once('{') {
            Some((before, rest)) => {
                let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
                flat(inside).into_iter().map(|name| format!("{before}{name}")).collect()
            }
            None => vec![part.split(" as ").next().unwrap_or_default().to_owned()],
        }
    };
    parts.iter().filter(|part| !part.trim().is_empty()).flat_map(one).collect()
}

/// The code of a file: no comments, and no tests at its end.
fn code(text: &str) -> String {
    let ends = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\n#[allow("];
    let end = ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a file names: in `use`, and by `crate::` or `super::` in the middle of its code.
fn named(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let begins_line = code[..at].rsplit('\n').next().is_some_and(|before| {
            let before = before.trim();
            before.is_empty() || before == "pub" || (before.starts_with("pub(") && before.ends_with(')'))
        });
        if begins_line {
            let tree = code[at + 4..].split(';').next().unwrap_or_default();
            paths.extend(flat(&tree.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    for word in ["crate::", "super::"] {
        for (at, _) in code.match_indices(word) {
            let path = code[at..].split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').next();
            // One that ends so is the beginning of a `use` with braces.
            paths.extend(path.filter(|path| !path.ends_with(':')).map(str::to_owned));
        }
    }
    paths
}

fn imports(root: &str) -> Imports {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut files = Vec::new();
    sources(&root, &mut files);
    let modules: BTreeMap<String, PathBuf> =
        files.into_iter().map(|file| (module_of(&root, &file), file)).collect();
    let texts: BTreeMap<&String, String> =
        modules.iter().map(|(module, file)| (module, fs::read_to_string(file).expect("a source"))).collect();
    // A module that is declared for tests only, and those below it.
    let for_tests = |module: &str| {
        let declared = |parent: &str, name: &str| {
            let text = texts.get(&parent.to_owned()).map_or("", String::as_str);
            text.contains(&format!("#[cfg(test)]\nmod {name};")) || name == "tests"
        };
        let ends = module.match_indices("::").map(|(at, _)| at).chain([module.len()]);
        ends.map(|end| &module[..end]).any(|part| {
            let (parent, name) = part.rsplit_once("::").unwrap_or(("", part));
            declared(parent, name)
        })
    };
    let mut all = Imports::new();
    for (module, text) in texts.iter().filter(|(module, _)| !for_tests(module)) {
        let code = code(text);
        // A child that is declared here is named without `self::`.
        let children = code.lines().filter_map(|line| {
            let name = line.trim().strip_suffix(';')?.rsplit_once("mod ")?.1;
            code.contains(&format!("{name}::")).then(|| format!("self::{name}"))
        });
        let imported = named(&code).into_iter().chain(children).filter_map(|path| {
            let mut base: Vec<&str> = module.split("::").filter(|name| !name.is_empty()).collect();
            let mut names: Vec<&str> = path.split("::").map(str::trim).collect();
            match *names.first()? {
                "crate" => base.clear(),
                "self" => {}
                "super" => drop(base.pop()),
                _ => return None,
            }
            names.remove(0);
            while names.first() == Some(&"super") {
                base.pop();
                names.remove(0);
            }
            base.extend(names);
            while !base.is_empty() && !modules.contains_key(&base.join("::")) {
                base.pop();
            }
            let target = base.join("::");
            (!target.is_empty() && target != **module && !for_tests(&target)).then_some(target)
        });
        all.insert((*module).clone(), imported.collect());
    }
    all
}

/// All that a module imports, and what that imports.
fn reached<'a>(imports: &'a Imports, from: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for target in imports.get(module).into_iter().flatten() {
            if seen.insert(target.as_str()) {
                next.push(target);
            }
        }
    }
    seen
}

#[test]
fn no_file_imports_one_that_imports_it() {
    for (root, least) in [("src", 50), ("sim/src", 50), ("doubles/src", 1)] {
        let imports = imports(root);
        assert!(
            imports.values().map(BTreeSet::len).sum::<usize>() >= least,
            "{root}: hardly an import was found"
        );
        let in_circle = |module: &str| reached(&imports, module).contains(module);
        let circle: Vec<_> = imports
            .iter()
            .filter(|(module, _)| in_circle(module))
            .map(|(module, targets)| {
                (module, targets.iter().filter(|target| in_circle(target)).collect::<Vec<_>>())
            })
            .collect();
        assert!(circle.is_empty(), "{root}: each of these is imported by what it imports: {circle:#?}");
    }
}

#[test]
fn what_is_inside_knows_nothing_of_what_is_around_it() {
    let imports = imports("src");
    let layer = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    for (inside, allowed) in [
        ("logic", ["logic", "config"].as_slice()),
        ("config", &["config", "files"]),
        ("shell", &["shell", "logic", "config", "files"]),
        ("adapters", &["adapters", "shell", "logic", "config", "files"]),
    ] {
        for (module, targets) in imports.iter().filter(|(module, _)| layer(module) == inside) {
            for target in targets {
                assert!(allowed.contains(&layer(target).as_str()), "{module} imports {target}");
            }
        }
    }
    // What the tests and the board share is not of the daemon's making, and not built again with it.
    let doubles = concat!(env!("CARGO_MANIFEST_DIR"), "/doubles/Cargo.toml");
    assert!(!fs::read_to_string(doubles).expect("a manifest").contains("acpi-stated"), "{doubles}");
}

/// No clock, no I/O, no async, no log: clippy.toml refuses some of it by name, this whatever is not known to be pure.
#[test]
fn the_logic_uses_nothing_that_is_not_pure() {
    const PURE: &[&str] = &["core::", "std::collections::", "std::fmt", "std::iter", "std::vec", "thiserror"];
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/logic"), &mut files);
    files.retain(|file| {
        !file.components().any(|part| ["tests", "tests.rs"].contains(&&*part.as_os_str().to_string_lossy()))
    });
    let mut seen = 0;
    for file in files {
        let text = code(&fs::read_to_string(&file).expect("a source"));
        for path in named(&text).iter().filter(|path| {
            path.contains("::")
                && !["crate", "self", "super"].contains(&path.split("::").next().unwrap_or_default())
        }) {
            assert!(PURE.iter().any(|pure| path.starts_with(pure)), "{} uses {path}", file.display());
            seen += 1;
        }
        for word in [
            "async ",
            ".await",
            "std::env",
            "std::fs",
            "std::io",
            "std::time::Instant",
            "SystemTime",
            "tracing",
            "tokio",
            "zbus",
        ] {
            assert!(!text.contains(word), "{} has {word:?}", file.display());
        }
    }
    assert!(seen > 10, "hardly a use was found");
}

/// The test itself sees what it is there for.
#[test]
fn an_import_is_found_however_it_is_written() {
    let text = "//! use crate::no;\npub(crate) use self::{\n    a::{B, C as D},\n    e,\n};\nfn f() -> crate::g::H {}\n#[cfg(test)]\nmod tests {}\nuse crate::no;";
    assert_eq!(named(&code(text)), ["self::a::B", "self::a::C", "self::e", "crate::g::H"]);
}
