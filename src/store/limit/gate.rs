//! So many at once.

use std::sync::Arc;

use super::line::{Flow, Line, Turn};
use crate::progress;

struct Places {
    most: usize,
    taken: usize,
}

/// Places that requests take, files in turn.
pub struct Gate(Line<Places>);

/// A place, until it is dropped.
pub struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.change(|places| places.taken -= 1);
    }
}

impl Gate {
    /// At least one place.
    pub fn new(places: usize) -> Arc<Gate> {
        Arc::new(Gate(Line::new(Places { most: places.max(1), taken: 0 })))
    }

    pub async fn enter(self: &Arc<Gate>, flow: Flow) -> Place {
        let take = |places: &mut Places| {
            if places.taken >= places.most {
                return Turn::Later;
            }
            places.taken += 1;
            Turn::Taken(())
        };
        progress::any_other(self.0.take(flow, take)).await;
        Place(self.clone())
    }
}
