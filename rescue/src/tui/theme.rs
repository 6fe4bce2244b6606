//! Every colour. Sixteen colours at most, and none of them is the only sign of anything: the monochrome theme says
//! the same with reverse video, bold, words and marks.

use ratatui::style::{Color, Modifier, Style};

/// The looks of everything, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// The line at the top.
    pub title: Style,
    /// Ordinary text.
    pub text: Style,
    /// Headings of tables and sections.
    pub heading: Style,
    /// What is less important.
    pub dim: Style,
    /// The marked line of a list.
    pub selected: Style,
    /// A key in the hint line.
    pub key: Style,
    /// What that key does.
    pub hint: Style,
    /// Lines and boxes.
    pub frame: Style,
    /// It went well.
    pub good: Style,
    /// Worth knowing before going on.
    pub warn: Style,
    /// It went wrong, or data will be lost.
    pub bad: Style,
    /// The done part of a progress bar, and the graph.
    pub bar: Style,
    /// A field to type in.
    pub field: Style,
    /// Kinds of content on a disk, see [`Content`].
    pub content: [Style; 5],
}

/// Kinds of content a disk bar tells apart by colour; the name is written on it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Linux file systems.
    Linux,
    /// FAT and exFAT.
    Fat,
    /// Windows file systems.
    Windows,
    /// Swap.
    Swap,
    /// Anything else.
    Other,
}

impl Content {
    /// Sorts a file system by its name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" | "bcachefs" | "zfs_member" => Self::Linux,
            "vfat" | "exfat" | "msdos" => Self::Fat,
            "ntfs" | "refs" | "BitLocker" | "bitlocker" => Self::Windows,
            "swap" | "swsuspend" => Self::Swap,
            _ => Self::Other,
        }
    }
}

impl Theme {
    /// Sixteen colours.
    #[must_use]
    pub const fn colour() -> Self {
        let plain = Style::new();
        Self {
            title: plain.fg(Color::Black).bg(Color::Cyan),
            text: plain,
            heading: plain.fg(Color::Cyan),
            dim: plain.fg(Color::DarkGray),
            selected: plain.add_modifier(Modifier::BOLD).fg(Color::Yellow),
            key: plain.fg(Color::Black).bg(Color::Gray),
            hint: plain,
            frame: plain.fg(Color::DarkGray),
            good: plain.fg(Color::Green).add_modifier(Modifier::BOLD),
            warn: plain.fg(Color::Yellow),
            bad: plain.fg(Color::Red).add_modifier(Modifier::BOLD),
            bar: plain.fg(Color::Cyan),
            field: plain.add_modifier(Modifier::REVERSED),
            content: [
                plain.fg(Color::Green),
                plain.fg(Color::Yellow),
                plain.fg(Color::Cyan),
                plain.fg(Color::Magenta),
                plain.fg(Color::Gray),
            ],
        }
    }

    /// No colour at all.
    #[must_use]
    pub const fn monochrome() -> Self {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        let reversed = plain.add_modifier(Modifier::REVERSED);
        Self {
            title: reversed,
            text: plain,
            heading: bold,
            dim: plain,
            selected: bold,
            key: reversed,
            hint: plain,
            frame: plain,
            good: bold,
            warn: bold,
            bad: bold,
            bar: plain,
            field: reversed,
            content: [plain; 5],
        }
    }

    /// Returns the look of a kind of content.
    #[must_use]
    pub const fn of(&self, content: Content) -> Style {
        match content {
            Content::Linux => self.content[0],
            Content::Fat => self.content[1],
            Content::Windows => self.content[2],
            Content::Swap => self.content[3],
            Content::Other => self.content[4],
        }
    }
}
