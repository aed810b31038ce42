// SPDX-License-Identifier: Apache-2.0
//! The kinds of value that a key can have. Each knows how it is read, written, and explained, so that messages,
//! `--print-config`, the JSON Schema and the documentation cannot say different things.

use std::time::Duration;

use super::{json::Json, problem::Problems};

/// Something that stands at a key.
pub(crate) trait Value: Sized {
    /// The accepted values, as a remedy says them after "give".
    fn accepted() -> String;

    /// The value, if it is one.
    fn parse(json: &Json) -> Option<Self>;

    /// The value; what is wrong with it is told.
    fn read(json: &Json, at: &str, problems: &mut Problems) -> Option<Self> {
        let value = Self::parse(json);
        if value.is_none() {
            problems.found(at, json, "not accepted", format!("give {}", Self::accepted()));
        }
        value
    }

    /// As it would be read.
    fn write(&self) -> Json;

    /// Its JSON Schema.
    #[cfg(test)]
    fn schema() -> Json;

    /// The keys below it, for the documentation.
    #[cfg(test)]
    fn describe(_sections: &mut super::reference::Sections) {}
}

/// Entries of a JSON object.
#[cfg(test)]
pub(crate) fn object<const N: usize>(entries: [(&str, Json); N]) -> Json {
    Json::Object(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

#[cfg(test)]
pub(crate) fn string(text: &str) -> Json {
    Json::String(text.to_owned())
}

impl Value for bool {
    fn accepted() -> String {
        "true or false".to_owned()
    }
    fn parse(json: &Json) -> Option<Self> {
        if let Json::Bool(value) = json { Some(*value) } else { None }
    }
    fn write(&self) -> Json {
        Json::Bool(*self)
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([("type", string("boolean"))])
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Whole<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Value for Whole<MIN, MAX> {
    fn accepted() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
    fn parse(json: &Json) -> Option<Self> {
        let Json::Number(number) = json else { return None };
        // 10.0 is whole too, as JSON Schema has it.
        let value = number.as_f64()?;
        let range = f64::from(MIN)..=f64::from(MAX);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is in range and whole"
        )]
        (range.contains(&value) && value.fract() == 0.0).then_some(Self(value as u32))
    }
    fn write(&self) -> Json {
        Json::number(self.0.into())
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([
            ("type", string("integer")),
            ("minimum", Json::number(MIN.into())),
            ("maximum", Json::number(MAX.into())),
        ])
    }
}

/// A duration, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl Seconds {
    /// Less would be no time at all to a timer.
    const SHORTEST: f64 = 0.001;
    /// A week.
    const LONGEST: f64 = 604_800.0;

    pub(crate) const fn whole(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Value for Seconds {
    fn accepted() -> String {
        format!("a number of seconds, {} to {} (a week)", Self::SHORTEST, Self::LONGEST)
    }
    fn parse(json: &Json) -> Option<Self> {
        let Json::Number(number) = json else { return None };
        let seconds = number.as_f64()?;
        let range = Self::SHORTEST..=Self::LONGEST;
        range.contains(&seconds).then(|| Duration::try_from_secs_f64(seconds).ok().map(Self))?
    }
    fn write(&self) -> Json {
        Json::number(self.0.as_secs_f64())
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([
            ("type", string("number")),
            ("minimum", Json::number(Self::SHORTEST)),
            ("maximum", Json::number(Self::LONGEST)),
        ])
    }
}

/// A temperature in degrees Celsius.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Celsius(pub(crate) f64);

impl Celsius {
    /// The range that a sensor's object can show: its `MinValue` and `MaxValue` (rules 3.4).
    const LOWEST: f64 = -128.0;
    const HIGHEST: f64 = 127.0;
}

impl Value for Celsius {
    fn accepted() -> String {
        format!("degrees Celsius, {} to {}", Self::LOWEST, Self::HIGHEST)
    }
    fn parse(json: &Json) -> Option<Self> {
        let Json::Number(number) = json else { return None };
        number.as_f64().filter(|value| (Self::LOWEST..=Self::HIGHEST).contains(value)).map(Self)
    }
    fn write(&self) -> Json {
        Json::number(self.0)
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([
            ("type", string("number")),
            ("minimum", Json::number(Self::LOWEST)),
            ("maximum", Json::number(Self::HIGHEST)),
        ])
    }
}

/// A difference of temperatures in degrees, from 0 to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Degrees<const MAX: u32>(pub(crate) f64);

impl<const MAX: u32> Value for Degrees<MAX> {
    fn accepted() -> String {
        format!("a number of degrees, 0 to {MAX}")
    }
    fn parse(json: &Json) -> Option<Self> {
        let Json::Number(number) = json else { return None };
        number.as_f64().filter(|value| (0.0..=f64::from(MAX)).contains(value)).map(Self)
    }
    fn write(&self) -> Json {
        Json::number(self.0)
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([
            ("type", string("number")),
            ("minimum", Json::number(0.0)),
            ("maximum", Json::number(MAX.into())),
        ])
    }
}

/// A 7-bit I2C address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u8);

impl Value for Address {
    fn accepted() -> String {
        "an address from \"0x08\" to \"0x77\", as a string of that form".to_owned()
    }
    fn parse(json: &Json) -> Option<Self> {
        let Json::String(text) = json else { return None };
        let address = two_digits(text)?;
        // The rest is reserved (I2C specification UM10204, 3.1.12).
        (0x08..=0x77).contains(&address).then_some(Self(address))
    }
    fn write(&self) -> Json {
        Json::String(format!("{:#04x}", self.0))
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([("type", string("string")), ("pattern", string("^0x(0[89a-fA-F]|[1-6][0-9a-fA-F]|7[0-7])$"))])
    }
}

/// One byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Byte(pub(crate) u8);

impl Value for Byte {
    fn accepted() -> String {
        "a byte from \"0x00\" to \"0xff\", as a string of that form".to_owned()
    }
    fn parse(json: &Json) -> Option<Self> {
        let Json::String(text) = json else { return None };
        two_digits(text).map(Self)
    }
    fn write(&self) -> Json {
        Json::String(format!("{:#04x}", self.0))
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([("type", string("string")), ("pattern", string("^0x[0-9a-fA-F]{2}$"))])
    }
}

/// `"0x18"`.
fn two_digits(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 2)?;
    // A sign would be a digit to from_str_radix.
    let digits = digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(digits)?;
    u8::from_str_radix(digits, 16).ok()
}

/// A kind of string: its name, what is accepted, the longest, the pattern of the schema, and the same as a function.
macro_rules! text {
    ($($(#[doc = $doc:literal])+ $name:ident, $accepted:literal, $longest:literal, $pattern:literal, $is:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) String);

        impl Value for $name {
            fn accepted() -> String {
                $accepted.to_owned()
            }
            fn parse(json: &Json) -> Option<Self> {
                let Json::String(text) = json else { return None };
                let is: fn(&str) -> bool = $is;
                (text.len() <= $longest && is(text)).then(|| Self(text.clone()))
            }
            fn write(&self) -> Json {
                Json::String(self.0.clone())
            }
            #[cfg(test)]
            fn schema() -> Json {
                let longest = Json::Number($longest.into());
                object([("type", string("string")), ("maxLength", longest), ("pattern", string($pattern))])
            }
        }
    )+};
}

fn is_element(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

text! {
    /// A D-Bus object's path.
    ObjectPath, "a D-Bus object path, as \"/xyz/openbmc_project/...\"", 255, "^(/[A-Za-z0-9_]+)+$",
        |text| text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_element));
    /// A sensor's name: the last element of its object's path.
    SensorName, "a name of letters, digits and \"_\", at most 64 of them", 64, "^[A-Za-z0-9_]+$", is_element;
    /// A systemd unit (systemd.unit(5)).
    UnitName, "the name of a systemd unit that can be started, ending in .target or .service", 255,
        r"^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]+)?\.(target|service)$", is_unit;
    /// A GPIO line's name, as the kernel has it.
    LineName, "the name of a GPIO line, at most 31 characters, no space", 31, "^[!-~]+$",
        |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    /// A file.
    FilePath, "the absolute path of a file", 4095, "^(/[ -.0-~]+)+$",
        |text| text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_file_name));
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

fn is_unit(text: &str) -> bool {
    let Some(name) = text.strip_suffix(".target").or_else(|| text.strip_suffix(".service")) else {
        return false;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b":_.\\-@".contains(&b);
    // A template without its instance cannot be started.
    let (prefix, instance) = name.split_once('@').map_or((name, None), |(p, i)| (p, Some(i)));
    name.bytes().all(allowed) && !prefix.is_empty() && instance.is_none_or(|instance| !instance.is_empty())
}

/// A value of a few words.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ $vis:vis enum $name:ident { $($(#[doc = $text:literal])+ $variant:ident = $word:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[doc = $text])+ $variant,)+ }

        impl $name {
            /// The word.
            #[must_use]
            $vis const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::config::value::Value for $name {
            fn accepted() -> String {
                format!("one of {}", [$(concat!("\"", $word, "\"")),+].join(", "))
            }
            fn parse(json: &Json) -> Option<Self> {
                let Json::String(text) = json else { return None };
                match text.as_str() { $($word => Some(Self::$variant),)+ _ => None }
            }
            fn write(&self) -> Json {
                Json::String(self.word().to_owned())
            }
            #[cfg(test)]
            fn schema() -> Json {
                use $crate::config::value::{object, string};
                object([("enum", Json::Array(vec![$(string($word)),+]))])
            }
        }
    )+};
}
pub(super) use words;

/// `null` is the same as leaving the key out.
impl<T: Value> Value for Option<T> {
    fn accepted() -> String {
        format!("{}, or null", T::accepted())
    }
    fn parse(json: &Json) -> Option<Self> {
        if *json == Json::Null { Some(None) } else { T::parse(json).map(Some) }
    }
    fn read(json: &Json, at: &str, problems: &mut Problems) -> Option<Self> {
        if *json == Json::Null { Some(None) } else { T::read(json, at, problems).map(Some) }
    }
    fn write(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::write)
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([("anyOf", Json::Array(vec![T::schema(), object([("type", string("null"))])]))])
    }
    #[cfg(test)]
    fn describe(sections: &mut super::reference::Sections) {
        T::describe(sections);
    }
}

/// A list. An item that cannot be used is left out, and the others keep their places.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List<T> {
    /// The usable items, each with its place.
    pub(crate) items: Vec<(usize, T)>,
    /// Nothing was left out: what is not in the list was not in the file.
    pub(crate) whole: bool,
}

impl<T> List<T> {
    pub(crate) const fn empty() -> Self {
        Self { items: Vec::new(), whole: true }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.items.iter().map(|(index, item)| (*index, item))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { items: items.into_iter().enumerate().collect(), whole: true }
    }
}

impl<T: Value> Value for List<T> {
    fn accepted() -> String {
        format!("a list [...], each item {}", T::accepted())
    }
    fn parse(json: &Json) -> Option<Self> {
        Self::read(json, "", &mut Problems::default()).filter(|list| list.whole)
    }
    fn read(json: &Json, at: &str, problems: &mut Problems) -> Option<Self> {
        let Json::Array(array) = json else {
            problems.found(at, json, "not accepted", format!("give {}", Self::accepted()));
            return Some(Self { items: Vec::new(), whole: false });
        };
        let read = |(index, item)| Some((index, T::read(item, &format!("{at}[{index}]"), problems)?));
        let items: Vec<_> = array.iter().enumerate().filter_map(read).collect();
        let whole = items.len() == array.len();
        Some(Self { items, whole })
    }
    fn write(&self) -> Json {
        Json::Array(self.values().map(T::write).collect())
    }
    #[cfg(test)]
    fn schema() -> Json {
        object([("type", string("array")), ("items", T::schema())])
    }
    #[cfg(test)]
    fn describe(sections: &mut super::reference::Sections) {
        T::describe(sections);
    }
}
