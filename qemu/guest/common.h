// SPDX-License-Identifier: Apache-2.0
// What the guest's test doubles share: names on the bus, and how they fail.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#define ACPI "xyz.openbmc_project.Control.Power.ACPIPowerState"
#define ACPI_VALUE ACPI ".ACPI."
#define PROPERTIES "org.freedesktop.DBus.Properties"
#define MAPPER "xyz.openbmc_project.ObjectMapper"
#define MAPPER_PATH "/xyz/openbmc_project/object_mapper"

// A double that cannot go on ends: systemd and the host model see that, not a wrong answer.
#define CHECK(call)                                                                                                    \
    ({                                                                                                                 \
        int check_result = (call);                                                                                     \
        if (check_result < 0) {                                                                                        \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(-check_result));                     \
            exit(1);                                                                                                   \
        }                                                                                                              \
        check_result;                                                                                                  \
    })

static inline int errno_of(int result) { return result < 0 ? -errno : result; }
