// SPDX-License-Identifier: Apache-2.0
//! The object mapper's answer to `GetSubTree`, looked through where it lies.
//!
//! Owns: the form of that answer. Must never: make anything small of it. An answer of 4 MiB that is taken apart into trees of strings
//! is 100 MiB of small pieces, and what little is remembered of it comes to lie behind them: then no setting of an allocator gives
//! them back.

use std::{
    collections::BTreeMap,
    fmt::{Formatter, Result as Format},
};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use zbus::{Signature, Type};

/// An interface that an object of a service has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) path: &'a str,
    pub(crate) service: &'a str,
    pub(crate) interface: &'a str,
}

/// All that was answered, in its order.
#[derive(Debug, Default)]
pub(crate) struct SubTree<'a>(pub(crate) Vec<Listed<'a>>);

impl Type for SubTree<'_> {
    const SIGNATURE: &'static Signature = <BTreeMap<&str, BTreeMap<&str, Vec<&str>>> as Type>::SIGNATURE;
}

impl<'de: 'a, 'a> Deserialize<'de> for SubTree<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Vec::new();
        deserializer.deserialize_map(Paths(&mut all))?;
        Ok(Self(all))
    }
}

struct Paths<'l, 'a>(&'l mut Vec<Listed<'a>>);

impl<'de: 'a, 'a> Visitor<'de> for Paths<'_, 'a> {
    type Value = ();

    fn expecting(&self, text: &mut Formatter<'_>) -> Format {
        text.write_str("services by path")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(path) = map.next_key()? {
            map.next_value_seed(Services { path, all: &mut *self.0 })?;
        }
        Ok(())
    }
}

struct Services<'l, 'a> {
    path: &'a str,
    all: &'l mut Vec<Listed<'a>>,
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for Services<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Services<'_, 'a> {
    type Value = ();

    fn expecting(&self, text: &mut Formatter<'_>) -> Format {
        text.write_str("interfaces by service")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(service) = map.next_key()? {
            map.next_value_seed(Interfaces { path: self.path, service, all: &mut *self.all })?;
        }
        Ok(())
    }
}

struct Interfaces<'l, 'a> {
    path: &'a str,
    service: &'a str,
    all: &'l mut Vec<Listed<'a>>,
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for Interfaces<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Interfaces<'_, 'a> {
    type Value = ();

    fn expecting(&self, text: &mut Formatter<'_>) -> Format {
        text.write_str("interfaces")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut interfaces: S) -> Result<(), S::Error> {
        while let Some(interface) = interfaces.next_element()? {
            self.all.push(Listed { path: self.path, service: self.service, interface });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zbus::Message;

    use super::*;

    #[test]
    fn it_is_what_a_mapper_answers() {
        let services =
            |of: &[(&'static str, Vec<&'static str>)]| -> BTreeMap<_, _> { of.iter().cloned().collect() };
        let tree: BTreeMap<&str, _> = [
            ("/a", services(&[("one", vec!["i", "j"]), ("two", vec!["i"])])),
            ("/b", services(&[("one", vec![]), ("three", vec!["k"])])),
            ("/c", services(&[])),
        ]
        .into();
        let message = Message::signal("/", "a.b", "C").build(&tree).unwrap();
        let body = message.body();
        let SubTree(all) = body.deserialize().unwrap();
        let all: Vec<_> = all.iter().map(|of| (of.path, of.service, of.interface)).collect();
        let expected = [("/a", "one", "i"), ("/a", "one", "j"), ("/a", "two", "i"), ("/b", "three", "k")];
        assert_eq!(all, expected);
        let other = Message::signal("/", "a.b", "C").build(&("a", 1_u32)).unwrap();
        assert!(other.body().deserialize::<SubTree<'_>>().is_err());
    }
}
