//! The exports by name, which may change while clients are connected.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::export::Export;
use crate::wire::STRING_BYTES_MAX;

/// What clients can choose from. Those that are connected keep what they chose.
#[derive(Default)]
pub struct Exports {
    by_name: RwLock<BTreeMap<String, Arc<dyn Export>>>,
}

impl Exports {
    /// Offers `export` from now on; what had the name before is given back.
    ///
    /// # Panics
    /// When the name is no string of the protocol, or the block sizes break the rules at [`crate::BlockSizes`].
    pub fn insert(&self, name: &str, export: Arc<dyn Export>) -> Option<Arc<dyn Export>> {
        assert!(name.len() <= STRING_BYTES_MAX && !name.contains('\0'), "a name that no client can ask for");
        let sizes = export.info().block_sizes;
        assert!(sizes.is_valid(), "block sizes that clients do not take: {sizes:?}");
        self.by_name.write().insert(name.to_owned(), export)
    }

    /// Offers it no longer. Clients that have it keep it: see [`crate::Server::disconnect`].
    pub fn remove(&self, name: &str) -> Option<Arc<dyn Export>> {
        self.by_name.write().remove(name)
    }

    /// The export of this name, and the name. The empty name is the only one's too, where there is but one.
    pub(crate) fn find(&self, name: &str) -> Option<(String, Arc<dyn Export>)> {
        let by_name = self.by_name.read();
        let found = by_name.get_key_value(name);
        let only = || by_name.iter().next().filter(|_| name.is_empty() && by_name.len() == 1);
        found.or_else(only).map(|(name, export)| (name.clone(), export.clone()))
    }

    /// Whether that very export is still offered under this name.
    pub(crate) fn offers(&self, name: &str, export: &Arc<dyn Export>) -> bool {
        self.by_name.read().get(name).is_some_and(|offered| Arc::ptr_eq(offered, export))
    }

    pub(crate) fn list(&self) -> Vec<(String, Arc<dyn Export>)> {
        self.by_name.read().iter().map(|(name, export)| (name.clone(), export.clone())).collect()
    }
}
