//! The fields that a context stack gives to every event that is published in it, encoded as JSON: once for each
//! frame, merged over those of the frames below it, and kept with the stack. Fields that break a rule never get in.
//! Knows nothing of events.

use super::given::{Given, given};
use crate::{
    context::{Context, StackFrame},
    event::{EventMetadata, is_traceparent},
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A stack that gives more than this is not kept encoded, since each frame repeats what those below it give.
const MAX_PART_BYTES: usize = 8 * 1024;

/// The metadata that a stack gives, as JSON.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The fields, with a comma before each.
    json: Vec<u8>,
    fields: Vec<Field>,
    /// One bit for each of the crate's own fields among them.
    bits: u64,
    pub(super) columns: Columns,
}

/// Where a field stands in the JSON, with its comma.
#[derive(Clone, Copy, Debug)]
struct Field {
    /// Its bit; 0 for a field of the application, which is identified by its name.
    bits: u64,
    begin: u16,
    value: u16,
    end: u16,
}

/// The fields that are also columns in the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) workflow_type: Option<Arc<str>>,
    pub(super) workflow_id: Option<Arc<str>>,
    pub(super) workflow_run_id: Option<Arc<str>>,
    pub(super) activity_type: Option<Arc<str>>,
    pub(super) activity_id: Option<Arc<str>>,
    pub(super) attempt: Option<u32>,
}

/// What is kept with a stack: none if a field of a frame breaks a rule, or if there is too much of it. Then every
/// event goes the long way.
struct Kept(Option<Part>);

/// The part of a stack without frames.
static NOTHING: Part = Part {
    json: Vec::new(),
    fields: Vec::new(),
    bits: 0,
    columns: Columns {
        workflow_type: None,
        workflow_id: None,
        workflow_run_id: None,
        activity_type: None,
        activity_id: None,
        attempt: None,
    },
};

impl Part {
    /// Returns what the stack gives; none if its events must go the long way.
    pub(super) fn of(context: &Context) -> Option<&Self> {
        if context.is_empty() {
            return Some(&NOTHING);
        }
        let kept = context.folded(|frame, below: Option<&Kept>| {
            Kept(match below {
                None => Self::over(frame, &NOTHING),
                Some(Kept(below)) => below.as_ref().and_then(|below| Self::over(frame, below)),
            })
        })?;
        kept.0.as_ref()
    }

    /// Merges what a frame gives over what the frames below it give.
    fn over(frame: &StackFrame, below: &Self) -> Option<Self> {
        let mut part = Self::default();
        part.json.reserve(below.json.len() + 512);
        part.fields.reserve(below.fields.len() + 12);
        let mut faults = Vec::new();
        let mut is_whole = true;
        given(frame, &mut faults, |name, value| {
            is_whole &= is_fit(name, value) && part.add(name, value).is_some();
        });
        if !is_whole || !faults.is_empty() {
            return None;
        }
        let own = part.fields.len();
        for field in &below.fields {
            let name = below.slice(field.begin, field.value);
            let is_given = match field.bits {
                0 => part.custom(own).any(|given| given == name),
                bits => part.bits & bits != 0,
            };
            if !is_given {
                let begin = part.json.len();
                part.json
                    .extend_from_slice(below.slice(field.begin, field.end));
                let value = begin + name.len();
                part.note(field.bits, begin, value)?;
            }
        }
        part.columns.fill(&below.columns);
        part.json.shrink_to_fit();
        part.fields.shrink_to_fit();
        Some(part)
    }

    /// Adds a field that the part does not have yet; none if that fails.
    fn add(&mut self, name: &str, value: Given<'_>) -> Option<()> {
        let begin = self.json.len();
        let bits = EventMetadata::field_bit(name).unwrap_or(0);
        self.json.push(b',');
        if bits == 0 {
            serde_json::to_writer(&mut self.json, name).ok()?;
        } else {
            // The crate's own names need no escaping.
            self.json.push(b'"');
            self.json.extend_from_slice(name.as_bytes());
            self.json.push(b'"');
        }
        self.json.push(b':');
        let at = self.json.len();
        let json = &mut self.json;
        match value {
            Given::Text(text) => serde_json::to_writer(json, text.as_ref()),
            Given::Number(number) => serde_json::to_writer(json, &number),
            Given::Flag(flag) => serde_json::to_writer(json, &flag),
            Given::Value(value) => serde_json::to_writer(json, value),
        }
        .ok()?;
        self.note(bits, begin, at)?;
        self.columns.set(name, value);
        Some(())
    }

    /// Notes where the last field stands in the JSON; none if the JSON is too long by now.
    fn note(&mut self, bits: u64, begin: usize, value: usize) -> Option<()> {
        let end = self.json.len();
        if end > MAX_PART_BYTES {
            return None;
        }
        self.bits |= bits;
        self.fields.push(Field {
            bits,
            begin: u16::try_from(begin).ok()?,
            value: u16::try_from(value).ok()?,
            end: u16::try_from(end).ok()?,
        });
        Some(())
    }

    fn slice(&self, begin: u16, end: u16) -> &[u8] {
        let range = usize::from(begin)..usize::from(end);
        self.json.get(range).unwrap_or_default()
    }

    /// Returns the names of the application's fields among the first `count`, as they stand in the JSON.
    fn custom(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields.iter().take(count);
        fields
            .filter(|field| field.bits == 0)
            .map(|field| self.slice(field.begin, field.value))
    }

    /// Whether it gives the field `name` of the crate's own.
    pub(super) fn gives(&self, name: &str) -> bool {
        EventMetadata::field_bit(name).is_some_and(|bit| self.bits & bit != 0)
    }

    /// Returns how many bytes [`Self::write`] writes at most.
    pub(super) fn len(&self) -> usize {
        self.json.len()
    }

    /// Writes the fields, with a comma before each, except those that the event has itself: `bits` for the
    /// crate's own fields, `custom` for the application's.
    pub(super) fn write(&self, json: &mut Vec<u8>, bits: u64, custom: &Map<String, Value>) {
        let is_custom = |field: &Field| {
            let name = self.slice(field.begin, field.value);
            // Between the comma and the colon.
            let name = name.get(1..name.len().saturating_sub(1));
            let name = name.and_then(|name| serde_json::from_slice::<String>(name).ok());
            name.is_some_and(|name| custom.contains_key(&name))
        };
        if self.bits & bits == 0 && custom.is_empty() {
            json.extend_from_slice(&self.json);
            return;
        }
        for field in &self.fields {
            let is_own = match field.bits {
                0 => !custom.is_empty() && is_custom(field),
                known => known & bits != 0,
            };
            if !is_own {
                json.extend_from_slice(self.slice(field.begin, field.end));
            }
        }
    }
}

/// Whether the field keeps the rules. The application's fields were checked before.
fn is_fit(name: &str, value: Given<'_>) -> bool {
    match (name, value) {
        ("traceparent", Given::Text(text)) => is_traceparent(text),
        ("activity_run_id", Given::Text(text)) => !text.contains('\0'),
        _ => true,
    }
}

impl Columns {
    fn set(&mut self, name: &str, value: Given<'_>) {
        let field = match (name, value) {
            ("workflow_type", _) => &mut self.workflow_type,
            ("workflow_id", _) => &mut self.workflow_id,
            ("workflow_run_id", _) => &mut self.workflow_run_id,
            ("activity_type", _) => &mut self.activity_type,
            ("activity_id", _) => &mut self.activity_id,
            ("attempt", Given::Number(attempt)) => {
                self.attempt = Some(attempt);
                return;
            }
            _ => return,
        };
        if let Given::Text(text) = value {
            *field = Some(text.clone());
        }
    }

    fn fill(&mut self, below: &Self) {
        let texts = [
            (&mut self.workflow_type, &below.workflow_type),
            (&mut self.workflow_id, &below.workflow_id),
            (&mut self.workflow_run_id, &below.workflow_run_id),
            (&mut self.activity_type, &below.activity_type),
            (&mut self.activity_id, &below.activity_id),
        ];
        for (field, below) in texts {
            if field.is_none() {
                field.clone_from(below);
            }
        }
        self.attempt = self.attempt.or(below.attempt);
    }
}
