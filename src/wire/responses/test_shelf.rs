//! A shelf that tests can look into.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use domain::{ResponseShelf, StoredResponse, Subject, TeamId, TeamShelf};

#[derive(Clone, Default)]
pub(super) struct TestShelf(pub Arc<Mutex<HashMap<String, Arc<StoredResponse>>>>);

impl ResponseShelf for TestShelf {
    fn keep(&self, _: &TeamId, response: StoredResponse) {
        let id = response.id.clone();
        self.0.lock().unwrap().insert(id, Arc::new(response));
    }

    fn find(&self, _: &TeamId, id: &str) -> Option<Arc<StoredResponse>> {
        self.0.lock().unwrap().get(id).cloned()
    }

    fn remove(&self, _: &TeamId, id: &str) -> bool {
        self.0.lock().unwrap().remove(id).is_some()
    }

    fn of_subject(
        &self,
        _: &Subject,
        _: Option<(TeamId, String)>,
        _: usize,
    ) -> Vec<(TeamId, Arc<StoredResponse>)> {
        Vec::new()
    }

    fn forget(&self, _: &Subject) -> u64 {
        0
    }
}

impl TestShelf {
    pub fn of_team(&self) -> TeamShelf {
        TeamShelf::new(Arc::new(self.clone()), TeamId::new("team"))
    }

    /// The only response there.
    pub fn only(&self) -> Arc<StoredResponse> {
        let kept = self.0.lock().unwrap();
        assert_eq!(kept.len(), 1);
        Arc::clone(kept.values().next().unwrap())
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}
