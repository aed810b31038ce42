// SPDX-License-Identifier: Apache-2.0
// Power control and mapper of the emulated board, in the place of x86-power-control and phosphor-objmgr.
//
// Follows two GPIO lines, power good and POST complete, and shows on D-Bus what x86-power-control shows (openbmc 2.1,
// 2.2), with its names on one connection and its 500 ms of warm reset check. The mapper knows one interface, and on a
// connection of its own. Must never: know of ACPI states, nor talk to the daemon.
#include "common.h"
#include <linux/gpio.h>

#define STATE "xyz.openbmc_project.State."
#define HOST_PATH "/xyz/openbmc_project/state/host0"
#define CHASSIS_PATH "/xyz/openbmc_project/state/chassis0"
#define ACPI_PATH "/xyz/openbmc_project/control/host0/acpi_power_state"

enum { POWER_GOOD = 0, POST_COMPLETE = 1 };
static const uint64_t WARM_RESET_CHECK_US = 500 * 1000;

static sd_bus *power;
static sd_event *event;
static sd_event_source *check;
static uint8_t level[2];
static struct {
    const char *host, *chassis, *os;
} shown;

static int get(sd_bus *bus, const char *path, const char *interface, const char *name, sd_bus_message *reply,
               void *userdata, sd_bus_error *error) {
    (void)bus, (void)path, (void)interface, (void)userdata, (void)error;
    char text[128];
    const char *value = *name == 'O' ? shown.os : strstr(name, "Host") ? shown.host : shown.chassis;
    const char *prefix = *name == 'O' ? STATE "OperatingSystem.Status.OSStatus."
                         : strstr(name, "Host") ? STATE "Host.HostState." : STATE "Chassis.PowerState.";
    snprintf(text, sizeof text, "%s%s", prefix, value);
    return sd_bus_message_append(reply, "s", text);
}

#define SHOWN(name)                                                                                                    \
    {SD_BUS_VTABLE_START(0), SD_BUS_PROPERTY(name, "s", get, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE), SD_BUS_VTABLE_END}
static const sd_bus_vtable host_table[] = SHOWN("CurrentHostState");
static const sd_bus_vtable chassis_table[] = SHOWN("CurrentPowerState");
static const sd_bus_vtable os_table[] = SHOWN("OperatingSystemState");

static void show(const char **what, const char *value, const char *path, const char *interface, const char *name) {
    if (!strcmp(*what, value)) return;
    *what = value;
    CHECK(sd_bus_emit_properties_changed(power, path, interface, name, NULL));
}

// In x86-power-control's order: the host before the chassis.
static void show_power(const char *host, const char *chassis) {
    show(&shown.host, host, HOST_PATH, STATE "Host", "CurrentHostState");
    show(&shown.chassis, chassis, CHASSIS_PATH, STATE "Chassis", "CurrentPowerState");
}

static void show_os(void) {
    show(&shown.os, level[POST_COMPLETE] ? "Standby" : "Inactive", HOST_PATH, STATE "OperatingSystem.Status",
         "OperatingSystemState");
}

static int no_power_loss(sd_event_source *source, uint64_t now, void *userdata) {
    (void)source, (void)now, (void)userdata;
    if (level[POWER_GOOD]) show_power("Running", "On");
    return 0;
}

static void follow(void) {
    if (!level[POWER_GOOD]) {
        CHECK(sd_event_source_set_enabled(check, SD_EVENT_OFF));
        show_power("Off", "Off");
        show_os();
        return;
    }
    int was_complete = !strcmp(shown.os, "Standby");
    if (!strcmp(shown.chassis, "Off")) {
        show_power("Running", "On");
    } else if (was_complete && !level[POST_COMPLETE]) {
        // A shutdown or a warm reset; which of them, the next 500 ms tell.
        show_power("Off", "On");
        CHECK(sd_event_source_set_time_relative(check, WARM_RESET_CHECK_US));
        CHECK(sd_event_source_set_enabled(check, SD_EVENT_ONESHOT));
    }
    show_os();
}

static int edge(sd_event_source *source, int fd, uint32_t events, void *userdata) {
    (void)source, (void)events;
    const unsigned *offsets = userdata;
    struct gpio_v2_line_event seen[16];
    ssize_t length = read(fd, seen, sizeof seen);
    for (size_t i = 0; length > 0 && i < (size_t)length / sizeof *seen; i++) {
        level[seen[i].offset == offsets[POST_COMPLETE]] = seen[i].id == GPIO_V2_LINE_EVENT_RISING_EDGE;
        // The gap between the numbers is what was lost: then only the level counts.
        follow();
    }
    struct gpio_v2_line_values now = {.mask = 3};
    CHECK(errno_of(ioctl(fd, GPIO_V2_LINE_GET_VALUES_IOCTL, &now)));
    if (length >= (ssize_t)sizeof seen || length < 0) {
        level[POWER_GOOD] = now.bits & 1;
        level[POST_COMPLETE] = now.bits >> 1 & 1;
        follow();
    }
    return 0;
}

// GetSubTree and GetObject for the one interface, from who owns its name now.
static int mapped(sd_bus_message *call, void *userdata, sd_bus_error *error) {
    (void)userdata;
    int object = sd_bus_message_is_method_call(call, MAPPER, "GetObject") > 0, asked = 0;
    const char *path, *interface;
    sd_bus_message *reply;
    CHECK(sd_bus_message_read(call, "s", &path));
    if (!object) CHECK(sd_bus_message_skip(call, "i"));
    CHECK(sd_bus_message_enter_container(call, 'a', "s"));
    while (CHECK(sd_bus_message_read(call, "s", &interface)) > 0) asked |= !strcmp(interface, ACPI);
    sd_bus *bus = sd_bus_message_get_bus(call);
    int owned = asked && sd_bus_get_name_creds(bus, ACPI, 0, NULL) >= 0;
    if (object && (!owned || strcmp(path, ACPI_PATH)))
        return sd_bus_error_set(error, "xyz.openbmc_project.Common.Error.ResourceNotFound", "path or object not found");
    CHECK(sd_bus_message_new_method_return(call, &reply));
    if (object)
        CHECK(sd_bus_message_append(reply, "a{sas}", 1, ACPI, 1, ACPI));
    else if (owned)
        CHECK(sd_bus_message_append(reply, "a{sa{sas}}", 1, ACPI_PATH, 1, ACPI, 1, ACPI));
    else
        CHECK(sd_bus_message_append(reply, "a{sa{sas}}", 0));
    CHECK(sd_bus_send(bus, reply, NULL));
    sd_bus_message_unref(reply);
    return 1;
}

static const sd_bus_vtable mapper_table[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("GetSubTree", "sias", "a{sa{sas}}", mapped, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("GetObject", "sas", "a{sas}", mapped, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

int main(int argc, char **argv) {
    static const char *const names[] = {"Host0", "Host", "Chassis0", "Chassis", "OperatingSystem0", "OperatingSystem"};
    static unsigned offsets[2];
    if (argc != 4) {
        fprintf(stderr, "usage: board /dev/gpiochipN POWER-GOOD-LINE POST-COMPLETE-LINE\n");
        return 64;
    }
    int chip = CHECK(errno_of(open(argv[1], O_RDWR | O_CLOEXEC)));
    struct gpio_v2_line_request lines = {.num_lines = 2, .consumer = "board"};
    lines.offsets[POWER_GOOD] = offsets[POWER_GOOD] = (unsigned)atoi(argv[2]);
    lines.offsets[POST_COMPLETE] = offsets[POST_COMPLETE] = (unsigned)atoi(argv[3]);
    lines.config.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING | GPIO_V2_LINE_FLAG_EDGE_FALLING;
    CHECK(errno_of(ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &lines)));
    struct gpio_v2_line_values now = {.mask = 3};
    CHECK(errno_of(ioctl(lines.fd, GPIO_V2_LINE_GET_VALUES_IOCTL, &now)));
    level[POWER_GOOD] = now.bits & 1;
    level[POST_COMPLETE] = now.bits >> 1 & 1;
    // On start: initial values, not transitions.
    shown.host = level[POWER_GOOD] ? "Running" : "Off";
    shown.chassis = level[POWER_GOOD] ? "On" : "Off";
    shown.os = level[POST_COMPLETE] ? "Standby" : "Inactive";

    sd_bus *mapper;
    CHECK(sd_event_default(&event));
    CHECK(sd_bus_open_system(&power));
    CHECK(sd_bus_open_system(&mapper));
    CHECK(sd_event_add_time_relative(event, &check, CLOCK_MONOTONIC, WARM_RESET_CHECK_US, 1000, no_power_loss, NULL));
    CHECK(sd_event_source_set_enabled(check, SD_EVENT_OFF));
    CHECK(sd_event_add_io(event, NULL, lines.fd, EPOLLIN, edge, offsets));
    CHECK(sd_bus_add_object_vtable(power, NULL, HOST_PATH, STATE "Host", host_table, NULL));
    CHECK(sd_bus_add_object_vtable(power, NULL, HOST_PATH, STATE "OperatingSystem.Status", os_table, NULL));
    CHECK(sd_bus_add_object_vtable(power, NULL, CHASSIS_PATH, STATE "Chassis", chassis_table, NULL));
    CHECK(sd_bus_add_object_vtable(mapper, NULL, MAPPER_PATH, MAPPER, mapper_table, NULL));
    CHECK(sd_bus_attach_event(power, event, 0));
    CHECK(sd_bus_attach_event(mapper, event, 0));
    CHECK(sd_bus_request_name(mapper, MAPPER, 0));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        snprintf(name, sizeof name, STATE "%s", names[i]);
        CHECK(sd_bus_request_name(power, name, 0));
    }
    sd_notify(0, "READY=1");
    return CHECK(sd_event_loop(event));
}
