//! Where the program prints: text in color and tables on a terminal, plain lines elsewhere, or JSON alone.

use super::{
    arguments::Format,
    failure::Failure,
    words::{BOLD, DIM, paint},
};
use anstream::AutoStream;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    io::{self, BufWriter, IsTerminal as _, Stdout, Write},
    time::{Duration, Instant},
};

/// Standard output.
pub(super) struct Screen {
    out: AutoStream<Stdout>,
    is_terminal: bool,
}

/// One cell of a table: its text, and a color where it matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Field {
    text: String,
    color: Option<Color>,
    is_number: bool,
}

impl Field {
    pub(super) fn number(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            color: None,
            is_number: true,
        }
    }

    pub(super) fn color(&mut self, color: Color) {
        self.color = Some(color);
    }

    pub(super) fn colored(text: impl Into<String>, color: Color) -> Self {
        Self {
            text: text.into(),
            color: Some(color),
            is_number: false,
        }
    }
}

impl From<String> for Field {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

impl From<&str> for Field {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
            out: AutoStream::auto(io::stdout()),
        }
    }

    /// Whether somebody looks, so that a table is of use.
    pub(super) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}")?;
        Ok(())
    }

    /// Prints values as JSON: a list of them, or one a line.
    pub(super) fn json<T: Serialize>(
        &mut self,
        format: Format,
        values: impl IntoIterator<Item = T>,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        match format {
            Format::Jsonl => {
                for value in values {
                    serde_json::to_writer(&mut out, &value)?;
                    out.write_all(b"\n")?;
                }
            }
            Format::Json | Format::Text => {
                let values: Vec<T> = values.into_iter().collect();
                serde_json::to_writer_pretty(&mut out, &values)?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()?;
        Ok(())
    }

    /// Prints one value as JSON, in one line or in many.
    pub(super) fn document<T: Serialize>(
        &mut self,
        format: Format,
        value: &T,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        match format {
            Format::Jsonl => serde_json::to_writer(&mut out, value)?,
            Format::Json | Format::Text => serde_json::to_writer_pretty(&mut out, value)?,
        }
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    /// Prints a table on a terminal, as wide as that; elsewhere lines with tabs, of which nothing is cut.
    pub(super) fn table(&mut self, head: &[&str], rows: Vec<Vec<Field>>) -> Result<(), Failure> {
        if self.is_terminal {
            let table = arranged(head, rows);
            return self.line(&table.to_string());
        }
        let mut out = BufWriter::new(io::stdout().lock());
        writeln!(out, "{}", head.join("\t"))?;
        for row in rows {
            let cells: Vec<String> = row.iter().map(|field| in_one_line(&field.text)).collect();
            writeln!(out, "{}", cells.join("\t"))?;
        }
        out.flush()?;
        Ok(())
    }
}

fn arranged(head: &[&str], rows: Vec<Vec<Field>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        // Whoever prints it decides about colors.
        .enforce_styling()
        .set_header(head.iter().enumerate().map(|(index, name)| {
            let of_column = |row: &Vec<Field>| row.get(index).is_some_and(|field| field.is_number);
            head_cell(name, rows.iter().any(of_column))
        }));
    for row in rows {
        table.add_row(row.into_iter().map(|field| {
            let mut cell = Cell::new(in_one_line(&field.text));
            if let Some(color) = field.color {
                cell = cell.fg(color);
            }
            if field.is_number {
                cell = cell.set_alignment(CellAlignment::Right);
            }
            cell
        }));
    }
    table
}

fn head_cell(name: &str, is_number: bool) -> Cell {
    let cell = Cell::new(name.to_uppercase()).add_attribute(comfy_table::Attribute::Dim);
    match is_number {
        true => cell.set_alignment(CellAlignment::Right),
        false => cell,
    }
}

/// A text in one line, and without what would steer a terminal: events say what they like.
pub(super) fn in_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => line.push(' '),
            character if character.is_control() => line.extend(character.escape_debug()),
            character => line.push(character),
        }
    }
    line
}

/// Says something beside the output, on standard error.
pub(super) fn note(text: &str) {
    anstream::eprintln!("{}", paint(DIM, text));
}

/// Says where something is, on standard error.
pub(super) fn wrote(what: &str, path: &std::path::Path) {
    anstream::eprintln!("{what} {}", paint(BOLD, path.display()));
}

/// A bar on standard error, if that is a terminal, once the work turns out to be long.
pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

/// What takes no longer needs no bar.
const SHORT: Duration = Duration::from_millis(500);

impl Progress {
    pub(super) fn new(what: &str, length: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        let template = "{msg} {bar:32} {human_pos}/{human_len} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_message(what.to_owned());
        Self {
            bar,
            began: Instant::now(),
        }
    }

    pub(super) fn set(&self, position: u64) {
        if self.bar.is_hidden() && self.began.elapsed() > SHORT {
            self.bar
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        self.bar.set_position(position);
    }

    /// There is more than was known.
    pub(super) fn lengthen(&self, length: u64) {
        self.bar.set_length(length);
    }

    pub(super) fn increase(&self) {
        self.set(self.bar.position() + 1);
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_events_say_does_not_steer_the_terminal() {
        let text = "a\u{1b}]0;title\u{7}\tb\r\nc\u{9b}31m ü ✓";
        assert_eq!(in_one_line(text), r"a\u{1b}]0;title\u{7} b  c\u{9b}31m ü ✓");
    }
}
