//! What `strace -f` wrote, call by call.

use std::collections::HashMap;

/// One system call that returned.
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    /// As it stands behind the `=`; a descriptor, a count, an address or an error.
    pub(crate) result: String,
    /// How many calls of the trace had returned when this one was made.
    pub(crate) made_after: usize,
}

/// The calls in the order in which they returned; those that never did are left out.
pub(crate) fn calls(trace: &str) -> Result<Vec<Call>, String> {
    let mut out = Vec::<Call>::new();
    let mut unfinished = HashMap::<&str, (String, usize)>::new();
    for line in trace.lines() {
        let (pid, line) = line.split_once(' ').ok_or("a line without a process")?;
        let line = line.trim_start();
        if line.starts_with("+++") || line.starts_with("---") {
            continue;
        }
        if let Some(start) = line.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, (start.trim_end().to_owned(), out.len()));
            continue;
        }
        let (mut whole, mut made_after) = (String::new(), out.len());
        let line = if let Some(rest) = line.strip_prefix("<... ") {
            let rest = rest.split_once("resumed>").ok_or("a call resumed without its end")?.1;
            (whole, made_after) = unfinished.remove(pid).unwrap_or((whole, made_after));
            whole.push_str(rest);
            &whole
        } else {
            line
        };
        let Some((name, rest)) = line.split_once('(') else {
            continue;
        };
        let Some((args, result)) = rest.rsplit_once(" = ") else {
            continue;
        };
        let args = args.trim_end().strip_suffix(')').unwrap_or(args);
        out.push(Call {
            name: name.to_owned(),
            args: split(args).into_iter().map(str::to_owned).collect(),
            result: result.trim().to_owned(),
            made_after,
        });
    }
    Ok(out)
}

/// Arguments, split at the commas that stand in no string and no bracket.
fn split(args: &str) -> Vec<&str> {
    let (mut out, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0_i32, false);
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            // All else in a string is written \xNN.
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => {
                out.push(args[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(args[start..].trim());
    out
}
