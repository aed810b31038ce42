// SPDX-License-Identifier: Apache-2.0
//! acpi-stated: argv and exit code.

fn main() {}
