//! The options that are lists of names.

use crate::{event::MAX_NAME_CHARACTERS, store::BuildError};
use serde::{Deserialize, Deserializer};

const ALLOWED: &str =
    "names of 1 to 255 characters, separated by commas, such as `CustomerId,OrderId`";

/// Reads names from a text with commas between them.
pub(super) fn parse(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().all(|name| is_name(name)) {
        Ok(names)
    } else {
        Err(ALLOWED.to_owned())
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= MAX_NAME_CHARACTERS
        && !name.contains(char::is_control)
}

/// Checks names, wherever they came from.
pub(super) fn check(option: &str, names: &[String]) -> Result<(), BuildError> {
    match names.iter().find(|name| !is_name(name)) {
        None => Ok(()),
        Some(name) => Err(BuildError::InvalidOption {
            name: option.to_owned(),
            value: name.chars().take(80).collect(),
            allowed: ALLOWED.to_owned(),
        }),
    }
}

/// Reads one string with commas, or a list of names.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a name, several with commas between them, or a list of names"
    )]
    enum Names {
        Text(String),
        List(Vec<String>),
    }
    match Option::<Names>::deserialize(deserializer)? {
        None => Ok(Vec::new()),
        Some(Names::Text(text)) => parse(&text).map_err(serde::de::Error::custom),
        Some(Names::List(list)) => Ok(list),
    }
}
