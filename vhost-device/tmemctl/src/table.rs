// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tables: columns by name, plain text that `awk` can read, colours where a person looks.

use std::io::Write;

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width,
    presets,
};
use tmem_admin_api::PAGE_BYTES;

use crate::{Error, format};

/// Spaces between columns.
const GAP: u16 = 2;

/// How the user wants to see things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The daemon's JSON instead of tables.
    pub(crate) json: bool,
    /// Plain numbers instead of sizes and times with units.
    pub(crate) bytes: bool,
    /// Colours may be used.
    pub(crate) colours: bool,
    /// Stderr is a terminal, on which progress can be drawn over.
    pub(crate) progress: bool,
}

impl View {
    /// A size in bytes.
    pub(crate) fn size(self, bytes: u64) -> Text {
        Text::number(if self.bytes {
            bytes.to_string()
        } else {
            format::bytes(bytes)
        })
    }

    /// The size of so many pages.
    pub(crate) fn pages(self, pages: u64) -> Text {
        self.size(pages.saturating_mul(PAGE_BYTES))
    }

    /// A time in nanoseconds.
    pub(crate) fn time(self, ns: u64) -> Text {
        Text::number(if self.bytes {
            ns.to_string()
        } else {
            format::nanoseconds(ns)
        })
    }
}

/// What stands in a cell.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    text: String,
    right: bool,
    colour: Option<Color>,
}

impl Text {
    /// Words, to the left.
    pub(crate) fn word(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            right: false,
            colour: None,
        }
    }

    /// A number, or what stands for one, to the right.
    pub(crate) fn number(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            right: true,
            colour: None,
        }
    }

    /// A plain count.
    pub(crate) fn count(count: impl Into<u64>) -> Self {
        Self::number(count.into().to_string())
    }

    /// The same, to the left.
    pub(crate) fn left(self) -> Self {
        Self {
            right: false,
            ..self
        }
    }

    /// Without colour and alignment.
    pub(crate) fn plain(&self) -> &str {
        &self.text
    }

    /// Sets it in a little.
    pub(crate) fn indent(&mut self) {
        self.text.insert_str(0, "  ");
    }

    /// Good news.
    pub(crate) fn good(self) -> Self {
        Self {
            colour: Some(Color::Green),
            ..self
        }
    }

    /// Bad news.
    pub(crate) fn bad(self) -> Self {
        Self {
            colour: Some(Color::Red),
            ..self
        }
    }

    /// A count of what ought not to happen.
    pub(crate) fn trouble(count: u64) -> Self {
        let text = Self::count(count);
        if count == 0 { text } else { text.bad() }
    }

    fn cell(self) -> Cell {
        let alignment = if self.right {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        };
        let cell = Cell::new(self.text).set_alignment(alignment);
        match self.colour {
            Some(colour) => cell.fg(colour),
            None => cell,
        }
    }
}

/// A column of a table whose rows are `T`s.
#[derive(Debug)]
pub(crate) struct Column<T> {
    /// As given to `--columns`; the header is the same in capitals.
    pub(crate) name: &'static str,
    /// Shown when no columns were asked for.
    pub(crate) usual: bool,
    /// For `--help`.
    pub(crate) help: &'static str,
    /// What stands in it.
    pub(crate) cell: fn(&T, View) -> Text,
}

/// A choice of columns, and how to print them.
pub(crate) struct Layout<T: 'static> {
    columns: Vec<&'static Column<T>>,
    widths_min: Vec<u16>,
}

impl<T> Layout<T> {
    /// The columns named, or the usual ones if none is. Names are clap's to check.
    pub(crate) fn choose(all: &'static [Column<T>], names: &[String]) -> Self {
        let columns = if names.is_empty() {
            all.iter().filter(|column| column.usual).collect()
        } else {
            names
                .iter()
                .filter_map(|name| all.iter().find(|c| c.name == name))
                .collect()
        };
        Self {
            columns,
            widths_min: Vec::new(),
        }
    }

    /// Makes every column wide enough for its header and for `characters`, so that tables printed
    /// one after another align, with headers or without.
    pub(crate) fn at_least(mut self, characters: u16) -> Self {
        let header = |column: &Column<T>| u16::try_from(column.name.len()).unwrap_or(u16::MAX);
        self.widths_min = self
            .columns
            .iter()
            .map(|c| header(c).max(characters))
            .collect();
        self
    }

    /// Prints `rows`, a line each.
    pub(crate) fn print(
        &self,
        rows: &[T],
        headers: bool,
        view: View,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let body: Vec<Vec<Text>> = rows
            .iter()
            .map(|row| {
                self.columns
                    .iter()
                    .map(|column| (column.cell)(row, view))
                    .collect()
            })
            .collect();
        let head = headers.then(|| {
            let names = self.columns.iter().enumerate();
            names
                .map(|(at, column)| Text {
                    text: column.name.to_uppercase(),
                    right: body.first().is_some_and(|row| row[at].right),
                    colour: None,
                })
                .collect()
        });
        print(head, body, &self.widths_min, view, out)
    }
}

/// Prints all of `columns` of one row, a property a line.
pub(crate) fn print_properties<T>(
    columns: &[Column<T>],
    row: &T,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    // One value column for words and numbers alike: all to the left.
    let lines = columns.iter().map(|column| {
        vec![
            Text::word(column.name.replace('-', " ")),
            (column.cell)(row, view).left(),
        ]
    });
    print(None, lines.collect(), &[], view, out)
}

/// Prints lines of cells under a head, if there is one. Columns that `widths_min` names are at least
/// that wide, in characters.
pub(crate) fn print(
    head: Option<Vec<Text>>,
    body: Vec<Vec<Text>>,
    widths_min: &[u16],
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if view.colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if let Some(head) = head {
        table.set_header(
            head.into_iter()
                .map(|text| text.cell().add_attribute(Attribute::Bold)),
        );
    }
    for line in body {
        table.add_row(line.into_iter().map(Text::cell));
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        if let Some(&width) = widths_min.get(at) {
            let width = Width::Fixed(width.saturating_add(GAP));
            column.set_constraint(ColumnConstraint::LowerBoundary(width));
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end()).map_err(Error::Output)?;
    }
    Ok(())
}

/// Prints an answer as it came, on a line of its own.
pub(crate) fn print_json(text: &str, out: &mut dyn Write) -> Result<(), Error> {
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}
