//! The trees of HFS+: files of nodes, of which the leaves are chained in the order of their keys.
//!
//! ```text
//! node  0: next, previous · 8: kind, height, number of records · 14: records … offsets of records, backwards from the end
//! ```
//!
//! Source: Apple, Technical Note TN1150, "B-Trees".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Volume, header::Fork};
use crate::{
    block,
    bytes::{Fields, Truncated},
};

/// Why a tree cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bad sectors.
    #[error("it cannot be read: {0}")]
    Read(#[from] block::Error),
    /// A node that is none, or not where it must be.
    #[error("node {node} {what}")]
    Node {
        /// Its number.
        node: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A place beyond the file.
    #[error("byte {0:#x} of it has no place")]
    Beyond(u64),
    /// Records are missing.
    #[error("it counts {counted} records, its leaves have {found}")]
    Records {
        /// What the header says.
        counted: u64,
        /// How many there are.
        found: u64,
    },
    /// The tree is larger than what is read.
    #[error("it is too large to be walked")]
    Budget,
    /// A structure is too short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// A tree whose header was read.
#[derive(Debug)]
pub struct Tree<'f> {
    fork: &'f Fork,
    node_size: usize,
    nodes: u64,
    first_leaf: u64,
    records: u64,
}

impl<'f> Tree<'f> {
    /// Reads the header node; `None` for a file of no bytes.
    ///
    /// # Errors
    /// The header is none, or cannot be read.
    pub fn open(volume: &Volume<'_>, fork: &'f Fork) -> Result<Option<Self>, Error> {
        if fork.size == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; 512];
        volume.read(fork, 0, &mut bytes)?;
        let f = Fields(&bytes);
        if f.u8(8)? != 1 {
            return Err(Error::Node { node: 0, what: "is no header" });
        }
        let node_size = usize::from(f.u16_be(32)?);
        if !node_size.is_power_of_two() || !(512..=32768).contains(&node_size) {
            return Err(Error::Node { node: 0, what: "names a node size that does not exist" });
        }
        let nodes = fork.size.checked_div(node_size as u64).unwrap_or(0);
        if u64::from(f.u32_be(36)?) > nodes {
            return Err(Error::Node { node: 0, what: "counts more nodes than the file has room for" });
        }
        let (records, first_leaf) = (u64::from(f.u32_be(20)?), u64::from(f.u32_be(24)?));
        Ok(Some(Self { fork, node_size, nodes, first_leaf, records }))
    }

    /// Calls `each` with every leaf record, key first, until it returns `false`.
    ///
    /// * `budget`: bytes that may still be read.
    ///
    /// # Errors
    /// The leaves do not form a chain of as many records as the header counts, or the budget ran out.
    pub fn leaves(
        &self,
        volume: &Volume<'_>,
        budget: &mut u64,
        each: &mut dyn FnMut(Fields<'_>) -> Result<bool, Truncated>,
    ) -> Result<(), Error> {
        let (mut node, mut previous, mut found) = (self.first_leaf, 0, 0u64);
        let mut bytes = vec![0; self.node_size];
        let mut left = self.nodes;
        while node != 0 {
            if node >= self.nodes || left == 0 {
                return Err(Error::Node { node, what: "is beyond the tree, or in a ring" });
            }
            left = left.saturating_sub(1);
            *budget = budget.checked_sub(self.node_size as u64).ok_or(Error::Budget)?;
            volume.read(self.fork, node.saturating_mul(self.node_size as u64), &mut bytes)?;
            let f = Fields(&bytes);
            if f.u8(8)? != 0xff {
                return Err(Error::Node { node, what: "is no leaf" });
            }
            if u64::from(f.u32_be(4)?) != previous {
                return Err(Error::Node { node, what: "does not name the leaf before it" });
            }
            let records = usize::from(f.u16_be(10)?);
            found = found.saturating_add(records as u64);
            for index in 0..records {
                let slot = |index: usize| self.node_size.checked_sub(index.saturating_add(1).saturating_mul(2));
                let bad = || Error::Node { node, what: "has a record out of place" };
                let offset = |index: usize| Ok(usize::from(f.u16_be(slot(index).ok_or_else(bad)?)?));
                let (start, end): (usize, usize) =
                    (offset(index)?, offset(index.saturating_add(1)).map_err(|error: Error| error)?);
                let len = end.checked_sub(start).filter(|_| start >= 14).ok_or_else(bad)?;
                if !each(Fields(f.slice(start, len)?))? {
                    return Ok(());
                }
            }
            (previous, node) = (node, u64::from(f.u32_be(0)?));
        }
        if found == self.records { Ok(()) } else { Err(Error::Records { counted: self.records, found }) }
    }
}
