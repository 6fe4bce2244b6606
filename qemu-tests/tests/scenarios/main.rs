//! The built environment, booted in QEMU: one file for each scenario.
//!
//! They run the files in `out/` and panic when these are missing: `scripts/build` makes them. A scenario that fails
//! leaves its folder in `target/scenarios`, with the disks and all that the machines said.

mod common;
mod volumes;

mod containers;
mod dirty;
mod filesystems;
mod gpt_virtio;
mod identity;
mod kills;
mod large_sectors;
mod mbr_sata_usb_nvme;
mod screenshot;
mod stores;
mod supervision;
mod tui;
mod unplug;
