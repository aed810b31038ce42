// SPDX-License-Identifier: Apache-2.0
//! Configurations, refused and accepted: `tests/config/README.md`. No bus is needed for any of this.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use acpi_stated::config;
use proptest::prelude::*;
use serde_json::Value;

const DAEMON: &str = env!("CARGO_BIN_EXE_acpi-stated");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The configurations in a directory, by name.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{directory} is empty");
    files
}

/// Runs the daemon where `file` is, with its name alone.
fn daemon(arguments: &[&str], file: &Path) -> Output {
    Command::new(DAEMON)
        .args(arguments)
        .arg(file.file_name().unwrap())
        .current_dir(file.parent().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    format!("exit {}\n{}{}", output.status.code().unwrap(), text(&output.stderr), text(&output.stdout))
}

/// Compares what the check says of each file with what is expected, which is also returned.
fn check(directory: &str) -> Vec<(PathBuf, String)> {
    let mut differ = Vec::new();
    let mut all = Vec::new();
    for file in files(directory) {
        let says = said(&daemon(&["--check-config"], &file));
        let golden = file.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&golden, &says).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if says != expected {
            differ.push(format!("{}\n-- expected\n{expected}-- says\n{says}", file.display()));
        }
        all.push((file, says));
    }
    assert!(differ.is_empty(), "\n{}", differ.join("\n"));
    all
}

#[test]
fn refused_with_the_message_a_person_needs() {
    for directory in ["tests/config/not-json", "tests/config/value", "tests/config/together"] {
        for (file, says) in check(directory) {
            assert!(says.starts_with("exit 78\nerror: "), "{}: {says}", file.display());
            let prefix = format!("error: {}: ", file.file_name().unwrap().display());
            for line in says.lines().skip(1) {
                let text = line.strip_prefix(&prefix).unwrap_or_else(|| panic!("no file in: {line}"));
                assert!(text.contains("; "), "no remedy in: {line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
}

#[test]
fn accepted_with_its_warnings() {
    for (file, says) in check("tests/config/accepted") {
        assert!(says.starts_with("exit 0\n"), "{}: {says}", file.display());
    }
}

#[test]
fn the_examples_are_accepted_without_a_warning() {
    for file in files("examples") {
        let says = said(&daemon(&["--check-config"], &file));
        assert!(says.starts_with("exit 0\n") && says.lines().count() == 2, "{says}");
    }
}

#[test]
fn what_is_printed_is_the_same_configuration_with_every_key() {
    let schema = Schema::shipped();
    for file in files("tests/config/accepted").into_iter().chain(files("examples")) {
        let printed = daemon(&["--print-config", "--config"], &file);
        assert!(printed.status.success(), "{}: {}", file.display(), said(&printed));
        let again = config::parse(&printed.stdout).unwrap();
        let first = config::parse(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(again.to_json() + "\n", String::from_utf8(printed.stdout.clone()).unwrap());
        assert_eq!(format!("{:?}", again.settings), format!("{:?}", first.settings), "{}", file.display());
        assert_eq!(again.warnings, first.warnings);
        let value = serde_json::from_slice(&printed.stdout).unwrap();
        assert_eq!(schema.complaints(&value), Vec::<String>::new(), "{}", file.display());
        schema.assert_every_key(&value);
    }
}

#[test]
fn the_schema_says_what_the_check_says() {
    let schema = Schema::shipped();
    let complaints = |file: &Path| {
        let value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        schema.complaints(&value)
    };
    for file in files("tests/config/value") {
        assert_ne!(complaints(&file), Vec::<String>::new(), "{}: the schema accepts it", file.display());
    }
    for directory in ["tests/config/together", "tests/config/accepted", "examples"] {
        for file in files(directory) {
            assert_eq!(complaints(&file), Vec::<String>::new(), "{}", file.display());
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let missing = said(&daemon(&["--check-config"], Path::new("/nowhere.json")));
    assert_eq!(
        missing,
        "exit 78\nerror: nowhere.json: it cannot be read: No such file or directory (os error 2); give a file that can be\n"
    );
    let directory = said(&daemon(&["--print-config", "--config"], &root().join("tests")));
    assert_eq!(
        directory,
        "exit 78\nerror: tests: it cannot be read: it is no regular file; give a file that can be\n"
    );
    let endless = said(&daemon(&["--check-config"], Path::new("/dev/zero")));
    assert_eq!(
        endless,
        "exit 78\nerror: zero: it cannot be read: it is no regular file; give a file that can be\n"
    );
    let scratch = Scratch::new("long");
    let long = scratch.0.join("long.json");
    fs::write(&long, vec![b' '; (1 << 20) + 1]).unwrap();
    let long = said(&daemon(&["--check-config"], &long));
    assert_eq!(long, "exit 78\nerror: long.json: it is longer than 1 MiB; give a configuration\n");
}

/// A directory of its own, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("acpi-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// Nobody ever writes to the pipe: the start must not wait for it. A link to a file is followed.
#[test]
fn a_configuration_that_is_no_regular_file_is_refused_at_once_and_a_link_is_followed() {
    let scratch = Scratch::new("pipe");
    let pipe = scratch.0.join("pipe.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for arguments in [&["--check-config"][..], &["--print-config", "--config"], &["--config"]] {
        let output = Command::new("timeout")
            .args(["20", DAEMON, "--bus", "unix:path=/nowhere"])
            .args(arguments)
            .arg(&pipe)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let says = said(&output);
        assert!(says.starts_with("exit 78\n"), "{says}");
        assert!(says.contains("pipe.json: it cannot be read: it is no regular file"), "{says}");
    }
    let link = scratch.0.join("link.json");
    std::os::unix::fs::symlink(root().join("examples/ast2600-one-socket.json"), &link).unwrap();
    assert!(said(&daemon(&["--check-config"], &link)).starts_with("exit 0\n"));
}

/// Each I2C bus may be a thread, and each step of the event loop looks at each file.
#[test]
fn more_than_256_buses_or_files_are_refused_and_told_once() {
    let file = |number: usize| {
        format!(r#"{{ "name": "T{number}", "group": "s0", "device": "hwmon", "path": "/sys/{number}" }}"#)
    };
    let files = |count: usize| {
        let files: Vec<_> = (0..count).map(file).collect();
        format!(r#"{{ "sensors": [{}] }}"#, files.join(", "))
    };
    let buses = |count: usize| {
        let buses: Vec<_> = (0..count).map(|number| format!(r#"{{ "bus": {number} }}"#)).collect();
        format!(r#"{{ "buses": [{}] }}"#, buses.join(", "))
    };
    assert_eq!(config::parse(files(256).as_bytes()).unwrap().settings.sensors.len(), 256);
    assert_eq!(config::parse(buses(256).as_bytes()).unwrap().settings.buses.len(), 256);
    for (text, at, wrong) in [
        (files(300), "sensors[256].path", "it is one of more than 256 files"),
        (buses(300), "buses[256].bus", "it is one of more than 256 buses"),
    ] {
        let problems = config::parse(text.as_bytes()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().starts_with(&format!("{at}: ")), "{}", problems[0]);
        assert!(problems[0].to_string().contains(wrong), "{}", problems[0]);
    }
}

/// Before anything else: no bus is asked for.
#[test]
fn the_daemon_itself_refuses_with_exit_78() {
    let file = root().join("tests/config/together/id-twice.json");
    let output = daemon(&["--bus", "unix:path=/nowhere", "--config"], &file);
    let says = said(&output);
    assert!(says.starts_with("exit 78\n"), "{says}");
    assert!(says.contains("ERROR id-twice.json: hosts[2].id: 0: another host has this id;"), "{says}");
}

#[test]
fn the_command_line_is_wrong() {
    let output =
        Command::new(DAEMON).args(["--check-config", "a", "b"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

// ---- The schema ------------------------------------------------------------------------------------

/// As much of a JSON Schema validator as `docs/config.schema.json` needs; it knows no other keyword and says so.
struct Schema(Value);

impl Schema {
    fn shipped() -> Self {
        let text = fs::read_to_string(root().join("docs/config.schema.json")).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    fn complaints(&self, value: &Value) -> Vec<String> {
        let mut complaints = Vec::new();
        validate(&self.0, value, "", &mut complaints);
        complaints
    }

    /// Every key of the schema is in `value`, wherever there is an object for it.
    fn assert_every_key(&self, value: &Value) {
        fn keys(schema: &Value, value: &Value, at: &str) {
            if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
                for (key, schema) in properties {
                    let value = object.get(key).unwrap_or_else(|| panic!("{at}.{key} is not printed"));
                    keys(schema, value, &format!("{at}.{key}"));
                }
            }
            for item in value.as_array().into_iter().flatten() {
                keys(&schema["items"], item, &format!("{at}[]"));
            }
        }
        keys(&self.0, value, "");
    }
}

fn validate(schema: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    let object = schema.as_object().unwrap();
    let mut complain = |what: &str| complaints.push(format!("{at}: {what}"));
    for (keyword, wanted) in object {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "properties" | "items" => true,
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                other => panic!("type {other}"),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|text| {
                text.chars().count() <= usize::try_from(wanted.as_u64().unwrap()).unwrap()
            }),
            "pattern" => {
                let pattern = regex_lite::Regex::new(wanted.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "anyOf" => wanted.as_array().unwrap().iter().any(|schema| {
                let mut complaints = Vec::new();
                validate(schema, value, at, &mut complaints);
                complaints.is_empty()
            }),
            "required" => value.as_object().is_none_or(|object| {
                wanted.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "additionalProperties" => value.as_object().is_none_or(|object| {
                object.keys().all(|key| schema["properties"].as_object().unwrap().contains_key(key))
            }),
            other => panic!("keyword {other}"),
        };
        if !holds {
            complain(keyword);
        }
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        for (key, value) in object {
            if let Some(schema) = properties.get(key) {
                validate(schema, value, &format!("{at}.{key}"), complaints);
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if schema.get("items").is_some() {
            validate(&schema["items"], item, &format!("{at}[{index}]"), complaints);
        }
    }
}

// ---- Whatever the file holds -----------------------------------------------------------------------

/// Words that the configuration knows, so that chance gets further than the first key.
fn word() -> impl Strategy<Value = String> {
    let schema = fs::read_to_string(root().join("docs/config.schema.json")).unwrap();
    let words: BTreeSet<String> = schema.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let words: Vec<String> = words.into_iter().filter(|word| word.len() < 30).collect();
    let known = ["0x18", "/xyz/a", "a.target", "a@b.service", "SPD"].map(str::to_owned);
    prop_oneof![
        4 => prop::sample::select(words),
        2 => prop::sample::select(known.to_vec()),
        1 => any::<String>(),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        (0..300_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        word().prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..8).prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

/// One of the accepted files or examples, with one value somewhere replaced, or one key added.
fn nearly_right() -> impl Strategy<Value = Value> {
    let files: Vec<Value> = files("tests/config/accepted")
        .into_iter()
        .chain(files("examples"))
        .map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap())
        .collect();
    (prop::sample::select(files), any::<prop::sample::Index>(), word(), json()).prop_map(
        |(mut value, place, key, other)| {
            let count = count(&value);
            let place = place.index(count);
            let target = nth(&mut value, &mut { place }).unwrap();
            match target.as_object_mut() {
                Some(object) => drop(object.insert(key, other)),
                None => *target = other,
            }
            value
        },
    )
}

fn children(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(entries) => entries.values_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn count(value: &Value) -> usize {
    1 + children(&mut value.clone()).into_iter().map(|child| count(child)).sum::<usize>()
}

/// The value at this place, counted from the top.
fn nth<'a>(value: &'a mut Value, place: &mut usize) -> Option<&'a mut Value> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    children(value).into_iter().find_map(|child| nth(child, place))
}

/// Reading it does not panic; what is refused is told; what is accepted is accepted by the schema, and stays what it is.
fn holds(text: &[u8], schema: &Schema) {
    match config::parse(text) {
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.to_string().contains('\n'), "{problem}");
            }
        }
        Ok(loaded) => {
            let value = serde_json::from_slice(text).unwrap();
            assert_eq!(schema.complaints(&value), Vec::<String>::new());
            let printed = loaded.to_json();
            let again = config::parse(printed.as_bytes()).unwrap();
            assert_eq!(again.to_json(), printed);
            assert_eq!(format!("{:?}", again.settings), format!("{:?}", loaded.settings));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes, &Schema::shipped());
    }

    #[test]
    fn any_json(value in json()) {
        holds(value.to_string().as_bytes(), &Schema::shipped());
    }

    #[test]
    fn any_slip(value in nearly_right()) {
        holds(value.to_string().as_bytes(), &Schema::shipped());
    }

    #[test]
    fn any_cut(file in prop::sample::select(files("examples")), at in any::<prop::sample::Index>()) {
        let text = fs::read(file).unwrap();
        holds(&text[..at.index(text.len())], &Schema::shipped());
    }
}
