//! What happens with each device event, for as long as the server runs: a new disk is set
//! read-only before anything else, a new device gets its driver.

use crate::coldplug;
use crate::guard::Guard;
use crate::modules::Loader;
use crate::settle::News;
use crate::uevent::{Received, Socket};
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Starts the thread that does so.
pub(crate) fn watch(
    socket: Socket,
    guard: Arc<Guard>,
    loader: Arc<Loader>,
    news: Arc<News>,
) -> Result<()> {
    std::thread::Builder::new()
        .name("devices".into())
        .spawn(move || {
            loop {
                match socket.receive() {
                    Ok(Received::Event(event)) => {
                        // First of all, and in this thread: nobody may be faster.
                        if let Some(disk) = event.new_disk() {
                            guard.protect(&disk);
                        }
                        if let Some(alias) = event.wanted_module() {
                            loader.request(alias);
                        }
                        if event.action == "add" {
                            news.arrived();
                        }
                    }
                    Ok(Received::Lost) => {
                        guard.protect_all();
                        coldplug::request_all(Path::new("/sys/devices"), &loader);
                        news.arrived();
                    }
                    Ok(Received::Nothing) => {}
                    Err(_) => {
                        // Should the socket fail for good, looking is still possible.
                        std::thread::sleep(Duration::from_secs(1));
                        guard.protect_all();
                    }
                }
            }
        })
        .map(drop)
        .context("starting the thread that watches devices")
}
