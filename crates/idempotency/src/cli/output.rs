//! [`Streams`]: where a command writes, and for whom; tables, colours.

use std::io::{self, IsTerminal, Write};

/// The standard streams of a command. Tables and colours are for a person at a terminal; a pipe gets plain lines.
pub struct Streams {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Whether a person reads the output.
    pub(super) is_terminal: bool,
    /// Whether a person reads what is said beside it.
    pub(super) tells_progress: bool,
    /// Whether a person can be asked.
    pub(super) can_ask: bool,
    has_colours: bool,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("is_terminal", &self.is_terminal).finish_non_exhaustive()
    }
}

impl Streams {
    /// The process's own. Colours are used on a terminal, unless `NO_COLOR` is set.
    pub fn of_the_process() -> Self {
        let (is_terminal, tells_progress) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            is_terminal,
            tells_progress,
            can_ask: io::stdin().is_terminal() && tells_progress,
            has_colours: is_terminal && !plain,
        }
    }

    /// Writers that no person reads at once.
    pub fn to(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        let (is_terminal, tells_progress, can_ask, has_colours) = (false, false, false, false);
        Self { out: Box::new(out), err: Box::new(err), is_terminal, tells_progress, can_ask, has_colours }
    }

    /// Writes to the output.
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Writes beside the output, a line.
    pub(super) fn tell(&mut self, text: &str) -> io::Result<()> {
        self.err.write_all(format!("{text}\n").as_bytes())?;
        self.err.flush()
    }

    /// Writes beside the output, without the end of a line: a question, or progress.
    pub(super) fn tell_part(&mut self, text: &str) -> io::Result<()> {
        self.err.write_all(text.as_bytes())?;
        self.err.flush()
    }

    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        match (self.has_colours, colour) {
            (true, Colour::None) | (false, _) => text.to_owned(),
            (true, colour) => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    None = 0,
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// Columns under their names. The last one is as wide as it likes; numbers stand on the right.
pub(super) struct Table {
    names: Vec<&'static str>,
    rows: Vec<(Colour, Vec<String>)>,
}

impl Table {
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self { names: names.into(), rows: vec![] }
    }

    /// A row, whose first cell has a colour.
    pub(super) fn row(&mut self, colour: Colour, cells: Vec<String>) {
        self.rows.push((colour, cells));
    }

    pub(super) fn text(&self, streams: &Streams) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|(_, cells)| cells[at].chars().count());
            cells.chain([self.names[at].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.names.len()).map(width).collect();
        let mut text = String::new();
        let line = |cells: &[String], paint: &dyn Fn(usize, String) -> String| {
            let last = cells.len() - 1;
            let mut line = String::new();
            for (at, cell) in cells.iter().enumerate() {
                let room = " ".repeat(widths[at] - cell.chars().count());
                let is_number = at > 0 && at < last && is_amount(self.rows.first().map_or(cell, |(_, row)| &row[at]));
                let padded = match (at == last, is_number) {
                    (true, _) => cell.clone(),
                    (_, true) => format!("{room}{cell}"),
                    _ => format!("{cell}{room}"),
                };
                line += &paint(at, padded);
                line += if at == last { "\n" } else { "  " };
            }
            line
        };
        let names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        text += &line(&names, &|_, cell| streams.paint(Colour::Bold, &cell));
        for (colour, cells) in &self.rows {
            text += &line(cells, &|at, cell| if at == 0 { streams.paint(*colour, &cell) } else { cell });
        }
        text
    }
}

fn is_amount(cell: &str) -> bool {
    cell.starts_with(|first: char| first.is_ascii_digit()) && cell.len() < 12 || cell == "-"
}
