// SPDX-License-Identifier: Apache-2.0
//! `docs/config.schema.json` and the tables of `docs/configuration.md`, made from the keys themselves.
//!
//! `UPDATE_DOCS=1 cargo test --lib config` writes them; without it an outdated one fails.

use std::{fmt::Write as _, fs, path::Path};

use super::{
    json::Json,
    keys::Config,
    value::{Value as _, object, string},
};

/// A key of an object.
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) accepted: String,
    pub(crate) default: Option<Json>,
    pub(crate) meaning: &'static str,
    pub(crate) schema: Json,
}

/// An object's name, its meaning, its keys.
pub(crate) type Sections = Vec<(&'static str, &'static str, Vec<Row>)>;

/// A comment in one line.
fn line(comment: &str) -> String {
    comment.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// The schema of an object with these keys.
pub(crate) fn object_schema(rows: &[Row]) -> Json {
    let mut properties = Vec::new();
    let mut required = Vec::new();
    for row in rows {
        let mut schema = vec![("description".to_owned(), string(&line(row.meaning)))];
        if let Json::Object(entries) = &row.schema {
            schema.extend(entries.iter().cloned());
        }
        match &row.default {
            Some(default) => schema.push(("default".to_owned(), default.clone())),
            None => required.push(string(row.key)),
        }
        properties.push((row.key.to_owned(), Json::Object(schema)));
    }
    object([
        ("type", string("object")),
        ("properties", Json::Object(properties)),
        ("required", Json::Array(required)),
        ("additionalProperties", Json::Bool(false)),
    ])
}

fn schema() -> String {
    let mut entries = vec![
        ("$schema".to_owned(), string("https://json-schema.org/draft/2020-12/schema")),
        ("title".to_owned(), string("The configuration of acpi-stated")),
    ];
    if let Json::Object(whole) = Config::schema() {
        entries.extend(whole);
    }
    Json::Object(entries).pretty() + "\n"
}

fn tables() -> String {
    let mut sections = Sections::new();
    Config::describe(&mut sections);
    let mut text = String::new();
    let mut told = Vec::new();
    for (name, meaning, rows) in sections {
        if told.contains(&name) {
            continue;
        }
        told.push(name);
        writeln!(text, "### {name}\n\n{}\n", line(meaning)).unwrap();
        writeln!(text, "| key | give | default | meaning |\n|---|---|---|---|").unwrap();
        for row in rows {
            let default = match &row.default {
                None => "mandatory".to_owned(),
                Some(Json::Object(_)) => "its defaults".to_owned(),
                Some(Json::Array(items)) if !items.is_empty() => "host 0 with its defaults".to_owned(),
                Some(value) => format!("`{}`", value.shortened()),
            };
            let accepted = linked(&row.accepted);
            let cells = [format!("`{}`", row.key), accepted, default, line(row.meaning)];
            writeln!(text, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")).unwrap();
        }
        text.push('\n');
    }
    text
}

/// The name of another section as a link.
fn linked(accepted: &str) -> String {
    let Some((before, rest)) = accepted.split_once(" with the keys of \"") else {
        return accepted.to_owned();
    };
    let (name, after) = rest.split_once('"').unwrap();
    format!("{before}, [{name}](#{}){after}", name.to_lowercase())
}

const BEGIN: &str = "<!-- From here to the end: generated from src/config/keys.rs, not to be edited. -->\n\n";

fn current(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text, "{file} is outdated: UPDATE_DOCS=1 cargo test --lib config");
}

#[test]
fn the_schema_is_current() {
    current("docs/config.schema.json", &schema());
}

#[test]
fn the_documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let there = fs::read_to_string(path).unwrap();
    let (by_hand, _) = there.split_once(BEGIN).expect("the mark where the generated part begins");
    current("docs/configuration.md", &format!("{by_hand}{BEGIN}{}\n", tables().trim_end()));
}
