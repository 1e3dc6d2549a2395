//! The names of one folder: as calls see them, as they are on the disk, and the changes between the two.
//!
//! - N1. `durable` with all of `pending` applied in order is `now`.
//! - N2. Unless renames are harsh, what a crash leaves never loses a file that no call removed or replaced:
//!   a change is kept only where the slot it fills holds what it held when the change was made.

use std::collections::BTreeMap;

use super::CrashMode;
use super::rng::Rng;
use super::state::{FileId, FolderId};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(FileId),
    Folder(FolderId),
}

pub(super) type Names = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
enum Change {
    /// `name` came to stand for `node`, in place of `was`; a rename if there is a `from`.
    Set {
        name: String,
        node: Node,
        was: Option<Node>,
        from: Option<String>,
    },
    /// `name`, which stood for `node`, went.
    Remove { name: String, node: Node },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    /// Relative to the root; empty for the root.
    pub(super) path: String,
    pub(super) now: Names,
    durable: Names,
    pending: Vec<Change>,
}

impl Folder {
    /// A folder just made.
    pub(super) fn new(path: String) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    /// A folder as found after a crash.
    pub(super) fn found(path: String, names: Names) -> Self {
        Self {
            path,
            now: names.clone(),
            durable: names,
            pending: Vec::new(),
        }
    }

    /// The path of what is called `name` here.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        }
    }

    pub(super) fn set(&mut self, name: &str, node: Node) {
        let was = self.now.insert(name.to_owned(), node);
        self.pending.push(Change::Set {
            name: name.to_owned(),
            node,
            was,
            from: None,
        });
    }

    /// Moves `node` from one name to another; what had the other name no longer has it.
    pub(super) fn rename(&mut self, from: &str, to: &str, node: Node) {
        self.now.remove(from);
        let was = self.now.insert(to.to_owned(), node);
        let (name, from) = (to.to_owned(), Some(from.to_owned()));
        self.pending.push(Change::Set { name, node, was, from });
    }

    pub(super) fn remove(&mut self, name: &str, node: Node) {
        self.now.remove(name);
        self.pending.push(Change::Remove {
            name: name.to_owned(),
            node,
        });
    }

    /// Brings all names to the disk.
    pub(super) fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.pending.clear();
    }

    /// Brings the first few changes to the disk. In order, so that what stays pending comes later than what
    /// is durable; a crash may still keep any of the rest.
    pub(super) fn sync_partly(&mut self, rng: &mut Rng) {
        let some = rng.below(self.pending.len() + 1);
        for change in self.pending.drain(..some) {
            change.apply(&mut self.durable);
        }
    }

    /// Gives `node` this name, now and on the disk, and no other.
    pub(super) fn put_durably(&mut self, name: &str, node: Node) {
        self.forget(name, node);
        self.now.insert(name.to_owned(), node);
        self.durable.insert(name.to_owned(), node);
    }

    pub(super) fn remove_durably(&mut self, name: &str, node: Node) {
        self.forget(name, node);
        self.now.remove(name);
        self.durable.remove(name);
    }

    /// Makes the disk, and what may still reach it, silent about `name` and `node`.
    fn forget(&mut self, name: &str, node: Node) {
        self.durable.retain(|_, n| *n != node);
        self.pending.retain_mut(|change| match change {
            Change::Set {
                name: n,
                node: of,
                from,
                ..
            } => {
                if from.as_deref() == Some(name) {
                    *from = None;
                }
                n != name && *of != node
            }
            Change::Remove { name: n, node: of } => n != name && *of != node,
        });
    }

    /// Whether a name, now or after some crash, stands for `node`.
    pub(super) fn knows(&self, node: Node) -> bool {
        self.now.values().chain(self.durable.values()).any(|n| *n == node)
            || self.pending.iter().any(|change| match change {
                Change::Set { node: of, .. } | Change::Remove { node: of, .. } => *of == node,
            })
    }

    /// Every node that a name stands for, now or after some crash; with repetitions.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        let pending = self.pending.iter().map(|change| match change {
            Change::Set { node, .. } | Change::Remove { node, .. } => *node,
        });
        self.now.values().chain(self.durable.values()).copied().chain(pending)
    }

    /// The names that a crash leaves.
    pub(super) fn crash(&self, mode: CrashMode, harsh: bool, rng: &mut Rng) -> Names {
        match mode {
            CrashMode::DropAll => self.durable.clone(),
            CrashMode::KeepAll | CrashMode::Torn => self.now.clone(),
            CrashMode::Random | CrashMode::Garbled => {
                let mut names = self.durable.clone();
                let bias = rng.bias();
                for change in &self.pending {
                    if harsh {
                        change.apply_by_halves(&mut names, || bias.yes(rng));
                    } else if bias.yes(rng) {
                        change.apply(&mut names);
                    }
                }
                names
            }
        }
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set { name, node, was, from } => {
                let has = names.get(name).copied();
                // A stranger in the slot: the change that moved it away did not reach the disk, so this
                // one, which came later, must not either, or the stranger would be lost (N2).
                if has.is_some() && has != *was && has != Some(*node) {
                    return;
                }
                if from.is_some() {
                    // Wherever it is: the change that gave it the name `from` may itself be lost.
                    names.retain(|_, n| n != node);
                }
                names.insert(name.clone(), *node);
            }
            Self::Remove { name, node } => {
                if names.get(name) == Some(node) {
                    names.remove(name);
                }
            }
        }
    }

    fn apply_by_halves(&self, names: &mut Names, mut keep: impl FnMut() -> bool) {
        match self {
            Self::Set { name, node, from, .. } => {
                if let Some(from) = from.as_ref().filter(|_| keep()) {
                    names.remove(from);
                }
                if keep() {
                    names.insert(name.clone(), *node);
                }
            }
            Self::Remove { name, .. } => {
                if keep() {
                    names.remove(name);
                }
            }
        }
    }
}
