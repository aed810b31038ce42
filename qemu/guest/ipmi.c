// SPDX-License-Identifier: Apache-2.0
// The host's KCS interface to D-Bus, in the place of kcsbridge and ipmid (openbmc 1.1, 1.2).
//
// Get Device ID, Set and Get ACPI Power State as ipmid does them: a mapper look-up for each half, system before
// device, and the same completion codes. Privileges are left out: KCS has them all. As with kcsbridge, a new request
// drops the answer of an outstanding one, whose D-Bus calls go on. Must never: know what the daemon does.
#include "common.h"

enum {
    CC_OK = 0x00,
    CC_UNKNOWN_COMMAND = 0xc1,
    CC_LENGTH = 0xc7,
    CC_FIELD = 0xc9,
    CC_UNSPECIFIED = 0xff,
    NETFN_APP = 0x06,
    CMD_GET_DEVICE_ID = 0x01,
    CMD_SET_ACPI = 0x06,
    CMD_GET_ACPI = 0x07,
    SET_THIS = 0x80,
    NO_CHANGE = 0x7f,
    SYSTEM = 0,
    DEVICE = 1,
};

static const char *const property[] = {[SYSTEM] = "SysACPIStatus", [DEVICE] = "DevACPIStatus"};

static const struct {
    uint8_t code;
    const char *name;
} states[] = {
    {0x00, "S0_G0_D0"}, {0x01, "S1_D1"},  {0x02, "S2_D2"},    {0x03, "S3_D3"},    {0x04, "S4"},
    {0x05, "S5_G2"},    {0x06, "S4_S5"},  {0x07, "G3"},       {0x08, "SLEEP"},    {0x09, "G1_SLEEP"},
    {0x0a, "OVERRIDE"}, {0x20, "LEGACY_ON"}, {0x21, "LEGACY_OFF"}, {0x2a, "Unknown"},
};

static const char *name_of(uint8_t code) {
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        if (states[i].code == code) return states[i].name;
    return NULL;
}

// Table 20-6 of the IPMI specification as ipmid reads it.
static int valid(int half, uint8_t code) {
    if (code == NO_CHANGE) return 1;
    if (half == DEVICE) return code <= 0x03 || code == 0x2a;
    return name_of(code) != NULL;
}

// One request of the host's, from its bytes to its answer. `bytes` are the two states, to set or as read.
struct request {
    unsigned number;
    uint8_t netfn, command, bytes[2];
    int half;
};

static int kcs;
static unsigned newest;

static void answer(struct request *r, uint8_t code, const uint8_t *data, size_t length) {
    uint8_t out[32] = {(uint8_t)((r->netfn | 1) << 2), r->command, code};
    if (length) memcpy(out + 3, data, length);
    // The host has given up on all but the newest.
    if (r->number == newest && write(kcs, out, 3 + length) < 0)
        fprintf(stderr, "the answer to %02x %02x is not taken: %s\n", r->netfn, r->command, strerror(errno));
    free(r);
}

static void half_done(sd_bus *bus, struct request *r);

static int set_done(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
    (void)error;
    struct request *r = userdata;
    if (sd_bus_message_is_method_error(reply, NULL)) {
        fprintf(stderr, "Set: %s\n", sd_bus_message_get_error(reply)->message);
        answer(r, CC_UNSPECIFIED, NULL, 0);
    } else {
        r->half++;
        half_done(sd_bus_message_get_bus(reply), r);
    }
    return 0;
}

static int get_done(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
    (void)error;
    struct request *r = userdata;
    const char *value = NULL;
    if (!sd_bus_message_is_method_error(reply, NULL) && sd_bus_message_read(reply, "v", "s", &value) > 0 &&
        !strncmp(value, ACPI_VALUE, strlen(ACPI_VALUE)))
        for (size_t i = 0; i < sizeof states / sizeof *states; i++)
            if (!strcmp(states[i].name, value + strlen(ACPI_VALUE))) {
                r->bytes[r->half++] = states[i].code;
                half_done(sd_bus_message_get_bus(reply), r);
                return 0;
            }
    answer(r, CC_UNSPECIFIED, NULL, 0);
    return 0;
}

// The mapper's answer: the lowest path, and of that the lowest service, in byte order.
static int choose(sd_bus_message *reply, char *path, char *service, size_t size) {
    *path = *service = 0;
    CHECK(sd_bus_message_enter_container(reply, 'a', "{sa{sas}}"));
    while (CHECK(sd_bus_message_enter_container(reply, 'e', "sa{sas}")) > 0) {
        const char *p, *s;
        CHECK(sd_bus_message_read(reply, "s", &p));
        int lower = !*path || strcmp(p, path) < 0;
        if (lower) {
            snprintf(path, size, "%s", p);
            *service = 0;
        }
        CHECK(sd_bus_message_enter_container(reply, 'a', "{sas}"));
        while (CHECK(sd_bus_message_enter_container(reply, 'e', "sas")) > 0) {
            CHECK(sd_bus_message_read(reply, "s", &s));
            if (lower && (!*service || strcmp(s, service) < 0)) snprintf(service, size, "%s", s);
            CHECK(sd_bus_message_skip(reply, "as"));
            CHECK(sd_bus_message_exit_container(reply));
        }
        CHECK(sd_bus_message_exit_container(reply));
        CHECK(sd_bus_message_exit_container(reply));
    }
    return *service != 0;
}

static int found(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
    (void)error;
    struct request *r = userdata;
    sd_bus *bus = sd_bus_message_get_bus(reply);
    char path[256], service[256], value[128];
    if (sd_bus_message_is_method_error(reply, NULL) || !choose(reply, path, service, sizeof path)) {
        fprintf(stderr, "the mapper knows no " ACPI "\n");
        answer(r, CC_UNSPECIFIED, NULL, 0);
    } else if (r->command == CMD_GET_ACPI) {
        CHECK(sd_bus_call_method_async(bus, NULL, service, path, PROPERTIES, "Get", get_done, r, "ss", ACPI,
                                       property[r->half]));
    } else {
        snprintf(value, sizeof value, ACPI_VALUE "%s", name_of(r->bytes[r->half] & ~SET_THIS));
        CHECK(sd_bus_call_method_async(bus, NULL, service, path, PROPERTIES, "Set", set_done, r, "ssv", ACPI,
                                       property[r->half], "s", value));
    }
    return 0;
}

static void half_done(sd_bus *bus, struct request *r) {
    // Each half is looked at when its turn comes: a bad device state leaves the system state set, as with ipmid.
    for (; r->command == CMD_SET_ACPI && r->half <= DEVICE; r->half++) {
        uint8_t byte = r->bytes[r->half];
        if (!(byte & SET_THIS)) continue;
        if (!valid(r->half, byte & ~SET_THIS)) {
            answer(r, CC_FIELD, NULL, 0);
            return;
        }
        if (byte != (SET_THIS | NO_CHANGE)) break;
    }
    if (r->half > DEVICE) {
        answer(r, CC_OK, r->bytes, r->command == CMD_GET_ACPI ? 2 : 0);
        return;
    }
    CHECK(sd_bus_call_method_async(bus, NULL, MAPPER, MAPPER_PATH, MAPPER, "GetSubTree", found, r, "sias", "/", 0, 1,
                                   ACPI));
}

static void requested(sd_bus *bus, const uint8_t *in, size_t length) {
    static const uint8_t device_id[] = {0x20, 0x01, 0x02, 0x13, 0x02, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    struct request *r = calloc(1, sizeof *r);
    if (!r) exit(1);
    r->number = ++newest;
    if (length < 2) { // Not a request at all; nobody waits for an answer that has no command.
        free(r);
        return;
    }
    r->netfn = in[0] >> 2;
    r->command = in[1];
    if (r->netfn != NETFN_APP || (in[0] & 3)) {
        answer(r, CC_UNKNOWN_COMMAND, NULL, 0);
    } else if (r->command == CMD_GET_DEVICE_ID) {
        answer(r, length == 2 ? CC_OK : CC_LENGTH, device_id, length == 2 ? sizeof device_id : 0);
    } else if (r->command == CMD_GET_ACPI && length == 2) {
        half_done(bus, r);
    } else if (r->command == CMD_SET_ACPI && length == 4) {
        memcpy(r->bytes, in + 2, 2);
        half_done(bus, r);
    } else if (r->command == CMD_GET_ACPI || r->command == CMD_SET_ACPI) {
        answer(r, CC_LENGTH, NULL, 0);
    } else {
        answer(r, CC_UNKNOWN_COMMAND, NULL, 0);
    }
}

static int readable(sd_event_source *source, int fd, uint32_t events, void *userdata) {
    (void)source, (void)events;
    uint8_t in[300];
    ssize_t length = read(fd, in, sizeof in);
    if (length > 0) requested(userdata, in, (size_t)length);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: ipmi /dev/ipmi-kcsN\n");
        return 64;
    }
    sd_bus *bus;
    sd_event *event;
    kcs = CHECK(errno_of(open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC)));
    CHECK(sd_bus_open_system(&bus));
    CHECK(sd_event_default(&event));
    CHECK(sd_bus_attach_event(bus, event, 0));
    CHECK(sd_event_add_io(event, NULL, kcs, EPOLLIN, readable, bus));
    sd_notify(0, "READY=1");
    return CHECK(sd_event_loop(event));
}
