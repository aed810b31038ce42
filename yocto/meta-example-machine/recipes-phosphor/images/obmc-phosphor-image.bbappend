# SPDX-License-Identifier: Apache-2.0
OBMC_IMAGE_EXTRA_INSTALL:append:example = " packagegroup-acpi-stated"
