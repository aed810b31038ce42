// SPDX-License-Identifier: Apache-2.0
//! The daemon's permits, compiled against loom instead of the standard library.
//!
//! The shipped file itself, not a copy. Not by `--cfg loom` as loom's own documentation has it: that flag goes to every
//! crate of the build, and tokio, told so, has no sockets.

// Of the file's items the models need some.
#![allow(dead_code, reason = "the file is written for the daemon")]

#[path = "../../src/shell/permits.rs"]
pub mod permits;
pub mod sync;
