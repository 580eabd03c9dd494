//! Loads modules in the background with a few threads: probing one slow controller does not hold
//! up the others.

use super::load::load;
use super::{Index, Options};
use crate::console::Console;
use anyhow::{Context, Result};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

const THREADS: usize = 4;

/// Takes requests, never blocks the one who asks.
#[derive(Debug)]
pub(crate) struct Loader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    index: Index,
    options: Options,
    console: Arc<Console>,
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<String>,
    /// Modules being loaded right now.
    busy: Vec<String>,
    seen: HashSet<String>,
}

impl Loader {
    /// Starts the threads.
    pub(crate) fn start(index: Index, options: Options, console: Arc<Console>) -> Result<Self> {
        let shared = Arc::new(Shared {
            index,
            options,
            console,
            queue: Mutex::default(),
            more: Condvar::new(),
        });
        for number in 0..THREADS {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("modules {number}"))
                .spawn(move || shared.work())
                .context("starting a thread that loads modules")?;
        }
        Ok(Self(shared))
    }

    /// Asks for the modules of an alias; the same again is passed over.
    pub(crate) fn request(&self, alias: &str) {
        // Each processor asks for dozens (crypto, frequency, virtualisation): none is needed.
        if alias.starts_with("cpu:") {
            return;
        }
        let mut queue = self.0.queue();
        if queue.seen.insert(alias.to_owned()) {
            queue.waiting.push_back(alias.to_owned());
            self.0.more.notify_one();
        }
    }

    /// Nothing waits and nothing is being loaded.
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.0.queue();
        queue.waiting.is_empty() && queue.busy.is_empty()
    }

    /// What is being loaded right now.
    pub(crate) fn busy_with(&self) -> Vec<String> {
        self.0.queue().busy.clone()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn work(&self) {
        loop {
            let alias = self.next();
            for name in self.index.wanted_by(&alias) {
                self.load_with_needs(name);
            }
            let mut queue = self.queue();
            if let Some(at) = queue.busy.iter().position(|busy| *busy == alias) {
                queue.busy.swap_remove(at);
            }
        }
    }

    fn next(&self) -> String {
        let mut queue = self.queue();
        loop {
            if let Some(alias) = queue.waiting.pop_front() {
                queue.busy.push(alias.clone());
                return alias;
            }
            queue = self.more.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn load_with_needs(&self, name: &str) {
        let steps = match self.index.steps(name) {
            Ok(steps) => steps,
            Err(error) => {
                return self
                    .console
                    .note(&format!("{name} is not loaded: {error:#}"));
            }
        };
        for step in &steps {
            if let Err(error) = load(step, &self.options) {
                // A driver that fails is the log's matter: its disk will be missed on the screen.
                self.console.note(&format!("{error:#}"));
            }
        }
    }
}
