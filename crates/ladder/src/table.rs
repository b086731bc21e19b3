//! Tables as aligned text and as Markdown.

/// Rows of cells under a header. The first `left` columns are text and lean left; the others are figures and
/// lean right.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    left: usize,
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

    /// Columns aligned by spaces, two between columns, no trailing blanks.
    pub fn text(&self) -> String {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                all().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for row in all() {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                if column < self.left {
                    line.push_str(&format!("{cell:<width$}"));
                } else {
                    line.push_str(&format!("{cell:>width$}"));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// The table under a title, as text or as Markdown.
    pub fn titled(&self, title: &str, markdown: bool) -> String {
        match markdown {
            true => format!("**{title}**\n\n{}", self.markdown()),
            false => format!("{title}\n\n{}", self.text()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["program", "calls"], 1);
        table.row(["echo-poll", "4"]);
        table.row(["a|b", "12.5"]);
        table
    }

    #[test]
    fn text_aligns_words_left_and_figures_right() {
        assert_eq!(sample().text(), "program    calls\necho-poll      4\na|b         12.5\n");
    }

    #[test]
    fn markdown_escapes_the_pipe() {
        assert_eq!(
            sample().markdown(),
            "| program | calls |\n| --- | ---: |\n| echo-poll | 4 |\n| a\\|b | 12.5 |\n"
        );
    }
}
