//! Progress bars: on a terminal only, on standard error.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// Counts bytes up to `total`; without a total it counts up.
pub(crate) fn bytes(total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => shown(
            ProgressBar::new(total),
            "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => shown(ProgressBar::no_length(), "{spinner} {bytes} {bytes_per_sec}"),
    }
}

/// Counts events up to `total`; without a total it counts up.
pub(crate) fn events(total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => shown(
            ProgressBar::new(total),
            "{wide_bar} {human_pos}/{human_len} events {per_sec} {eta}",
        ),
        None => shown(ProgressBar::no_length(), "{spinner} {human_pos} events {per_sec}"),
    }
}

fn shown(bar: ProgressBar, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // A template that does not parse would be a bug here; the default style does as well then.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
