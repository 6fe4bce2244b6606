//! The language of volume group metadata: `name = value` and `name { … }`, nested.
//!
//! Values are numbers, strings in double quotes and lists in brackets. `#` begins a comment. Nesting and the number of
//! entries are bounded, and nothing that the writer of metadata does not write is accepted: no paths as names, no name
//! twice in a section.
//!
//! Source: LVM2, libdm/libdm-config.c, lib/format_text/export.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{borrow::Cow, collections::HashSet};

/// Sections in sections.
const MAX_DEPTH: usize = 8;
/// Entries and list members in all, some tens of MiB of memory.
const MAX_ENTRIES: usize = 1 << 19;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'t> {
    /// A number that is not negative.
    Number(u64),
    /// A number of another kind.
    Other,
    /// A string.
    Text(Cow<'t, str>),
    /// A list; lists do not nest.
    List(Vec<Value<'t>>),
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Node<'t> {
    /// A value.
    Value(Value<'t>),
    /// A section.
    Section(Section<'t>),
}

/// Named entries, in the order they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section<'t>(pub Vec<(&'t str, Node<'t>)>);

/// Text that is no metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the text: {what}")]
pub struct Error {
    /// Where, in bytes from the start of the text.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl<'t> Section<'t> {
    fn get(&self, name: &str) -> Option<&Node<'t>> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, node)| node)
    }

    /// Returns the section called `name`.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Node::Section(section) => Some(section),
            Node::Value(_) => None,
        }
    }

    /// Lists the sections in it.
    pub fn sections(&self) -> impl Iterator<Item = (&'t str, &Self)> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((*name, section)),
            Node::Value(_) => None,
        })
    }

    /// Lists the values in it.
    pub fn values(&self) -> impl Iterator<Item = (&'t str, &Value<'t>)> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::Value(value) => Some((*name, value)),
            Node::Section(_) => None,
        })
    }

    /// Returns the number called `name`.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Node::Value(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// Returns the string called `name`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Node::Value(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Returns the strings in the list called `name`; none where it is not there, `None` where it is something else.
    #[must_use]
    pub fn words(&self, name: &str) -> Option<Vec<&str>> {
        fn word<'v>(value: &'v Value<'_>) -> Option<&'v str> {
            match value {
                Value::Text(text) => Some(text),
                _ => None,
            }
        }
        match self.get(name) {
            None => Some(Vec::new()),
            Some(Node::Value(Value::List(values))) => values.iter().map(word).collect(),
            Some(Node::Value(value)) => word(value).map(|word| vec![word]),
            Some(Node::Section(_)) => None,
        }
    }
}

/// Reads a whole text; it may end with zero bytes.
///
/// # Errors
/// [`Error`] at the first thing that is not understood.
pub fn parse(text: &str) -> Result<Section<'_>, Error> {
    let mut parser = Parser { text: text.trim_end_matches('\0'), at: 0, entries: 0 };
    let section = parser.section(0)?;
    if parser.peek().is_some() {
        return Err(parser.wrong("a section ends that never began"));
    }
    Ok(section)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    entries: usize,
}

impl<'t> Parser<'t> {
    fn wrong(&self, what: &'static str) -> Error {
        Error { at: self.at, what }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    /// Returns the next character that is neither space nor comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.rest();
            let space = rest.len().saturating_sub(rest.trim_ascii_start().len());
            self.skip(space);
            let next = self.rest().chars().next()?;
            if next != '#' {
                return Some(next);
            }
            let line = self.rest().find('\n').unwrap_or(self.rest().len());
            self.skip(line);
        }
    }

    fn eat(&mut self, want: char) -> bool {
        let found = self.peek() == Some(want);
        if found {
            self.skip(want.len_utf8());
        }
        found
    }

    fn count(&mut self) -> Result<(), Error> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > MAX_ENTRIES { Err(self.wrong("more entries than are read")) } else { Ok(()) }
    }

    /// Takes the characters that `belongs` says belong to a word.
    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let len = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.skip(len);
        rest.get(..len).unwrap_or_default()
    }

    fn section(&mut self, depth: usize) -> Result<Section<'t>, Error> {
        let (mut entries, mut names) = (Vec::new(), HashSet::new());
        while self.peek().is_some_and(|next| next != '}') {
            self.count()?;
            let name = self.word(|c| c.is_ascii_alphanumeric() || "_-+.".contains(c));
            if name.is_empty() {
                return Err(self.wrong("a name is wanted"));
            }
            if !names.insert(name) {
                return Err(self.wrong("a name is there twice"));
            }
            let node = if self.eat('{') {
                if depth >= MAX_DEPTH {
                    return Err(self.wrong("sections are nested too deep"));
                }
                let section = self.section(depth.saturating_add(1))?;
                if !self.eat('}') {
                    return Err(self.wrong("a section does not end"));
                }
                Node::Section(section)
            } else if self.eat('=') {
                Node::Value(self.value()?)
            } else {
                return Err(self.wrong("neither value nor section"));
            };
            entries.push((name, node));
        }
        Ok(Section(entries))
    }

    fn value(&mut self) -> Result<Value<'t>, Error> {
        if !self.eat('[') {
            return self.scalar();
        }
        let mut values = Vec::new();
        while !self.eat(']') {
            self.count()?;
            values.push(self.scalar()?);
            if !self.eat(',') && self.peek() != Some(']') {
                return Err(self.wrong("a list does not end"));
            }
        }
        Ok(Value::List(values))
    }

    fn scalar(&mut self) -> Result<Value<'t>, Error> {
        if self.eat('"') {
            return self.string().map(Value::Text);
        }
        let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.') {
            return Err(self.wrong("a value is wanted"));
        }
        Ok(word.parse().map_or(Value::Other, Value::Number))
    }

    /// Reads a string behind its opening quote.
    fn string(&mut self) -> Result<Cow<'t, str>, Error> {
        let rest = self.rest();
        let (mut escaped, mut any) = (false, false);
        for (index, c) in rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => (escaped, any) = (true, true),
                '"' => {
                    let raw = rest.get(..index).unwrap_or_default();
                    self.skip(index.saturating_add(1));
                    return Ok(if any { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) });
                }
                _ => {}
            }
        }
        Err(self.wrong("a string does not end"))
    }
}

fn unescape(raw: &str) -> String {
    let mut chars = raw.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn metadata_is_read() {
        let text = "# Generated\nvg0 {\n\tid = \"a-b\"\n\tseqno = 5 # five\n\tstatus = [\"READ\", \"WRITE\"]\n\tflags = []\n\
            \tpv-0.x+y { stripes = [\n\"pv0\", 17\n] }\n}\nnote = \"say \\\"hi\\\" \\\\\"\nless = -3\nf = 1.5\n\0\0";
        let root = parse(text).unwrap();
        let group = root.section("vg0").unwrap();
        assert_eq!((group.text("id"), group.number("seqno")), (Some("a-b"), Some(5)));
        assert_eq!(group.words("status"), Some(vec!["READ", "WRITE"]));
        assert_eq!(group.words("flags"), Some(vec![]));
        assert_eq!(group.words("nothing"), Some(vec![]));
        assert_eq!((group.words("seqno"), group.words("pv-0.x+y")), (None, None));
        let stripes = Value::List(vec![Value::Text("pv0".into()), Value::Number(17)]);
        assert_eq!(group.section("pv-0.x+y").unwrap().values().collect::<Vec<_>>(), [("stripes", &stripes)]);
        assert_eq!(root.text("note"), Some("say \"hi\" \\"));
        assert_eq!((root.number("less"), root.number("f"), root.section("less")), (None, None, None));
        assert_eq!(root.sections().count(), 1);
    }

    #[test]
    fn what_is_not_understood_is_said_where() {
        let deep = "a{".repeat(9);
        let many = format!("a = [{}]", "1,".repeat(MAX_ENTRIES));
        for (text, at, what) in [
            ("a", 1, "neither value nor section"),
            ("a = ", 4, "a value is wanted"),
            ("a = x", 5, "a value is wanted"),
            ("a = \"x", 5, "a string does not end"),
            ("a = \"x\\\"", 5, "a string does not end"),
            ("a = [1 2]", 7, "a list does not end"),
            ("a = [1, [2]]", 8, "a value is wanted"),
            ("a {", 3, "a section does not end"),
            ("a {} }", 5, "a section ends that never began"),
            ("a/b = 1", 1, "neither value nor section"),
            ("= 1", 0, "a name is wanted"),
            ("a = 1\na = 2", 7, "a name is there twice"),
            (&deep, 18, "sections are nested too deep"),
            (&many, 5 + 2 * (MAX_ENTRIES - 1), "more entries than are read"),
        ] {
            assert_eq!(parse(text), Err(Error { at, what }), "{}", &text[..text.len().min(20)]);
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "[a-c0-2{}\\[\\]=\",#\\\\\n é]{0,60}") {
            let _ = parse(&text);
        }
    }
}
