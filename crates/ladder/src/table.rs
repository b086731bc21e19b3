//! Tables as text that fits the terminal, and as Markdown.

use textwrap::{Options, WordSplitter};

/// Rows of cells under a header. The first `left` columns are text and lean left; the others are figures and
/// lean right.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    left: usize,
}

/// Columns of a terminal when there is none.
const WIDTH: usize = 80;

/// Blanks between two columns.
const GAP: usize = 2;

/// How far the text below a row stands from the margin.
const INDENT: &str = "      ";

/// No column of text becomes narrower than this by wrapping, and none of names by cutting.
const NARROWEST: [usize; 2] = [12, 24];

/// What stands where something was cut off.
const CUT: char = '…';

/// Columns of the terminal that the tool writes to, 80 when there is none.
pub fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(WIDTH, |(width, _)| width.0.into())
}

impl Table {
    /// An empty table whose first `left` columns lean left.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>, left: usize) -> Self {
        Table { header: header.into_iter().map(Into::into).collect(), rows: Vec::new(), left }
    }

    /// Adds a row; it has as many cells as the header.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text that fits the terminal.
    pub fn text(&self) -> String {
        self.fitted(terminal_width())
    }

    /// Columns aligned by spaces, two between columns, no trailing blanks, in lines of at most `width` columns.
    ///
    /// Where they do not fit, the last column of text drops below its row, unless it is the only one; then the widest
    /// one that is left gives way, by wrapping, or, if it holds the names of the rows, by cutting; then the figures go
    /// on below, under the names again.
    pub fn fitted(&self, width: usize) -> String {
        let mut widths: Vec<usize> = (0..self.header.len())
            .map(|column| self.lines().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let taken = |columns: &[usize], widths: &[usize]| -> usize {
            columns.iter().map(|&column| widths[column] + GAP).sum::<usize>().saturating_sub(GAP)
        };
        let all: Vec<usize> = (0..self.header.len()).collect();
        let fits = taken(&all, &widths) <= width;
        let below = (!fits && self.left > 1).then(|| self.left - 1);
        let texts: Vec<usize> = (0..below.unwrap_or(self.left)).collect();
        let beside: Vec<usize> = all.iter().copied().filter(|&column| Some(column) != below).collect();
        let over = taken(&beside, &widths).saturating_sub(width);
        if let Some(&widest) = texts.iter().max_by_key(|&&column| widths[column]) {
            let narrowest = NARROWEST[usize::from(widest == 0)].min(widths[widest]);
            widths[widest] = match widths[widest].saturating_sub(over) {
                narrow if narrow >= narrowest => narrow,
                // It would not suffice: the figures go on below, and only a name that leaves them no room is cut.
                _ if widest == 0 => widths[0].min(width / 2),
                _ => narrowest,
            };
        }
        // As many figures as fit beside the text, and at least one.
        let mut blocks: Vec<Vec<usize>> = vec![texts.clone()];
        for figure in self.left..self.header.len() {
            let block = blocks.last_mut().filter(|block| {
                block.len() == texts.len() || taken(&[&block[..], &[figure]].concat(), &widths) <= width
            });
            match block {
                Some(block) => block.push(figure),
                None => blocks.push([&texts[..], &[figure]].concat()),
            }
        }
        let block = |(number, columns): (usize, &Vec<usize>)| -> String {
            let below = below.filter(|_| number == 0);
            self.lines().map(|row| self.line(row, columns, &widths) + &under(row, below, width)).collect()
        };
        blocks.iter().enumerate().map(block).collect::<Vec<_>>().join("\n")
    }

    /// The header and the rows.
    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.header).chain(&self.rows)
    }

    /// One row in these columns: one line, or several if a text wraps.
    fn line(&self, row: &[String], columns: &[usize], widths: &[usize]) -> String {
        let cells: Vec<Vec<String>> = columns
            .iter()
            .map(|&column| match column {
                0 => vec![cut(&row[0], widths[0])],
                _ if column < self.left => wrap(&row[column], widths[column], ""),
                _ => vec![row[column].clone()],
            })
            .collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let mut out = String::new();
        for line in 0..height {
            let mut text = String::new();
            for (&column, cell) in columns.iter().zip(&cells) {
                let (cell, width) = (cell.get(line).map_or("", String::as_str), widths[column]);
                match column < self.left {
                    true => text.push_str(&format!("{cell:<width$}")),
                    false => text.push_str(&format!("{cell:>width$}")),
                }
                text.push_str(&" ".repeat(GAP));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }

    /// The table under a title, as text or as Markdown.
    pub fn titled(&self, title: &str, markdown: bool) -> String {
        match markdown {
            true => format!("**{title}**\n\n{}", self.markdown()),
            false => format!("{}\n\n{}", wrap(title, terminal_width(), "").join("\n"), self.text()),
        }
    }

    /// A Markdown table; a pipe inside a cell is escaped.
    pub fn markdown(&self) -> String {
        let line = |row: &[String]| {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = (0..self.header.len())
            .map(|column| if column < self.left { "---" } else { "---:" }.to_string())
            .collect();
        let mut out = line(&self.header) + &line(&rule);
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }
}

/// The cell that dropped below its row, if one did.
fn under(row: &[String], below: Option<usize>, width: usize) -> String {
    let Some(cell) = below.and_then(|column| row.get(column)) else { return String::new() };
    wrap(cell, width, INDENT).iter().map(|line| format!("{line}\n")).collect()
}

/// Lines of at most `width` columns. Only a word that is longer than a line is broken.
fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let options = Options::new(width)
        .initial_indent(indent)
        .subsequent_indent(indent)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(|line| line.into_owned()).collect()
}

/// The beginning of a text that is wider than `width` columns, with a mark where it was cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width.saturating_sub(1)).chain([CUT]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["program", "calls"], 1);
        table.row(["echo-poll", "4"]);
        table.row(["a|b", "12.5"]);
        table
    }

    /// A row of `ladder list`, shortened.
    fn ladder() -> Table {
        let mut table = Table::new(["rung", "program", "waits in", "new idea", "lines"], 4);
        table.row(["14", "echo-poll", "poll(2)", "a list of (descriptor, events); no FD_SETSIZE", "80"]);
        table
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn text_aligns_words_left_and_figures_right() {
        assert_eq!(sample().fitted(80), "program    calls\necho-poll      4\na|b         12.5\n");
    }

    #[test]
    fn markdown_escapes_the_pipe() {
        assert_eq!(
            sample().markdown(),
            "| program | calls |\n| --- | ---: |\n| echo-poll | 4 |\n| a\\|b | 12.5 |\n"
        );
    }

    #[test]
    fn where_there_is_room_a_row_is_a_line() {
        assert_eq!(
            ladder().fitted(80),
            "rung  program    waits in  new idea                                       lines\n\
             14    echo-poll  poll(2)   a list of (descriptor, events); no FD_SETSIZE     80\n"
        );
    }

    #[test]
    fn the_last_column_of_text_drops_below_its_row_and_wraps() {
        assert_eq!(
            ladder().fitted(40),
            "rung  program    waits in  lines\n      new idea\n14    echo-poll  poll(2)      80\n      \
             a list of (descriptor, events); no\n      FD_SETSIZE\n"
        );
    }

    #[test]
    fn the_widest_text_that_is_left_wraps_in_its_column() {
        let mut table = ladder();
        table.row(["42", "echo-tokio", "tokio, as one future for both directions", "a runtime waits", "119"]);
        let text = table.fitted(48);
        assert!(
            text.ends_with(
                "42    echo-tokio  tokio, as one future       119\n                  for both directions\n      \
                 a runtime waits\n"
            ),
            "{text}"
        );
        assert!(widest(&text) <= 48, "{text}");
    }

    #[test]
    fn a_name_is_cut_with_a_mark_and_the_figures_stay_aligned() {
        let mut table = sample();
        table.row(["somebody-elses-server-with-a-long-name", "2"]);
        assert_eq!(
            table.fitted(32),
            "program                    calls\necho-poll                      4\na|b                         12.5\n\
             somebody-elses-server-wi…      2\n"
        );
    }

    #[test]
    fn figures_that_do_not_fit_go_on_below() {
        let mut table = Table::new(["program", "pselect6", "recvfrom", "sendto", "all"], 1);
        table.row(["echo-select", "1", "2", "1", "4"]);
        table.row(["somebody-elses-server", "-", "1", "1", "2"]);
        assert_eq!(
            table.fitted(40),
            "program               pselect6  recvfrom\necho-select                  1         2\n\
             somebody-elses-serv…         -         1\n\n\
             program               sendto  all\necho-select                1    4\nsomebody-elses-serv…       1    2\n"
        );
    }
}
