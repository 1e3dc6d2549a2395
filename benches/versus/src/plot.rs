//! The plot: for each work, each store's rate as a part of bare.

use std::fmt::Write as _;

use crate::Run;
use crate::report::{Line, lines, rate};
use crate::work::Work;

const PANEL_WIDTH: f64 = 460.0;
const BAR_HEIGHT: f64 = 15.0;
const HEAD: f64 = 34.0;
/// Where the bars begin, and how long one as fast as bare is.
const BARS_FROM: f64 = 110.0;
const BARE_WIDTH: f64 = 200.0;
/// Some read faster than bare with its CRC; longer bars are cut.
const BAR_MAX: f64 = 1.25;

/// An SVG with two columns of panels.
pub(crate) fn svg(run: &Run) -> String {
    let panels: Vec<(Work, Vec<Line<'_>>)> = Work::ALL
        .into_iter()
        .map(|work| (work, lines(run, work)))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let height = |lines: &[Line<'_>]| HEAD + BAR_HEIGHT * lines.len() as f64 + 14.0;
    let mut columns = [0.0_f64; 2];
    let mut body = String::new();
    for (number, (work, lines)) in panels.iter().enumerate() {
        let column = number % 2;
        panel(&mut body, column as f64 * PANEL_WIDTH, columns[column], *work, lines).expect("a string takes it");
        columns[column] += height(lines);
    }
    let (width, height) = (2.0 * PANEL_WIDTH, columns[0].max(columns[1]) + 10.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn panel(out: &mut String, x: f64, y: f64, work: Work, lines: &[Line<'_>]) -> std::fmt::Result {
    let end = y + HEAD + BAR_HEIGHT * lines.len() as f64;
    writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        x + 10.0,
        y + 22.0,
        escaped(&work.title())
    )?;
    for (number, line) in lines.iter().enumerate() {
        let top = y + HEAD + BAR_HEIGHT * number as f64;
        let part = line.to_bare.unwrap_or(0.0);
        let colour = match line.kind.name {
            "annals" => "#d2691e",
            name if name.starts_with("bare") => "#666666",
            _ if !line.credited => "#dddddd",
            _ if work.reads() && !line.kind.checked_reads => "#b4cbe0",
            _ => "#5b8db8",
        };
        let note = match line {
            line if !line.credited => ", syncs missing",
            line if work.reads() && !line.kind.checked_reads => ", unchecked",
            _ => "",
        };
        let width = part.min(BAR_MAX) * BARE_WIDTH;
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{} ({part:.2}){note}</text>",
            x + BARS_FROM - 6.0,
            top + 11.0,
            escaped(line.kind.name),
            x + BARS_FROM,
            top + 1.5,
            BAR_HEIGHT - 3.0,
            x + BARS_FROM + width + 5.0,
            top + 11.0,
            rate(line.rate)
        )?;
    }
    let bare = x + BARS_FROM + BARE_WIDTH;
    writeln!(
        out,
        "<line x1=\"{bare:.1}\" y1=\"{:.1}\" x2=\"{bare:.1}\" y2=\"{end:.1}\" stroke=\"#666666\" stroke-dasharray=\"3 2\"/>",
        y + HEAD
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
