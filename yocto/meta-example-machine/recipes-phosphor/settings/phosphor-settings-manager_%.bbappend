# SPDX-License-Identifier: Apache-2.0
# Only for a machine whose settings have the object: a removal of what is not there adds it instead (merge_settings.py of
# phosphor-settings-manager). OpenBMC's own settings have not; some forks' have.
FILESEXTRAPATHS:prepend:example := "${THISDIR}/${PN}:"

SRC_URI:append:example = " file://acpi-stated.remove.yml"
