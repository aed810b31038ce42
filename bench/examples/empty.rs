// SPDX-License-Identifier: Apache-2.0
//! What a program that does nothing weighs: `./dev size`.

fn main() {}
