// SPDX-License-Identifier: Apache-2.0
// The judge's ear inside the guest: a serial line on which it asks, and on which the daemon's signals are passed on.
//
// One line a message. From outside: "ID VERB ARGUMENTS"; back: "R ID JSON" or "E ID TEXT". By itself: "S JSON" for each
// signal, "H" at the start. Must never: send anything to the daemon that other services would not send.
#include "common.h"
#include <stdarg.h>
#include <sys/wait.h>
#include <termios.h>

static int line;
static sd_event *loop;
static char out[65536];
static size_t used;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(out + used, sizeof out - used, format, arguments);
    va_end(arguments);
    used = n < 0 || used + (size_t)n >= sizeof out ? sizeof out - 1 : used + (size_t)n;
}

static void send_line(void) {
    out[used++] = '\n';
    for (size_t sent = 0; sent < used;) {
        ssize_t n = write(line, out + sent, used - sent);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = line, .events = POLLOUT};
            (void)poll(&wait, 1, 1000);
        } else if (n < 0) {
            exit(1);
        } else {
            sent += (size_t)n;
        }
    }
    used = 0;
}

static void say_string(const char *text) {
    say("\"");
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            say("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            say("\\u%04x", (unsigned)*text);
        else
            say("%c", *text);
    say("\"");
}

// One complete value of a message as JSON. A number that JSON does not know (NaN) is null.
static void say_value(sd_bus_message *m) {
    char type;
    const char *contents;
    union {
        uint8_t y;
        int b, i;
        int16_t n;
        uint16_t q;
        uint32_t u;
        int64_t x;
        uint64_t t;
        double d;
        const char *s;
    } v;
    CHECK(sd_bus_message_peek_type(m, &type, &contents));
    if (strchr("avr(", type)) {
        int variant = type == 'v', dictionary = type == 'a' && contents[0] == '{', first = 1;
        CHECK(sd_bus_message_enter_container(m, type, contents));
        if (!variant) say(dictionary ? "{" : "[");
        while (!CHECK(sd_bus_message_at_end(m, 0))) {
            if (!first) say(",");
            first = 0;
            if (dictionary) {
                CHECK(sd_bus_message_peek_type(m, &type, &contents));
                CHECK(sd_bus_message_enter_container(m, type, contents));
                say_value(m);
                say(":");
                say_value(m);
                CHECK(sd_bus_message_exit_container(m));
            } else {
                say_value(m);
            }
        }
        if (!variant) say(dictionary ? "}" : "]");
        CHECK(sd_bus_message_exit_container(m));
        return;
    }
    CHECK(sd_bus_message_read_basic(m, type, &v));
    switch (type) {
    case 'y': say("%u", v.y); break;
    case 'b': say(v.b ? "true" : "false"); break;
    case 'n': say("%d", v.n); break;
    case 'q': say("%u", v.q); break;
    case 'i': say("%d", v.i); break;
    case 'u': say("%u", v.u); break;
    case 'x': say("%lld", (long long)v.x); break;
    case 't': say("%llu", (unsigned long long)v.t); break;
    case 'd':
        if (v.d == v.d) say("%g", v.d);
        else say("null");
        break;
    default: say_string(v.s);
    }
}

static void say_all(sd_bus_message *m) {
    int first = 1;
    say("[");
    while (!CHECK(sd_bus_message_at_end(m, 1))) {
        if (!first) say(",");
        first = 0;
        say_value(m);
    }
    say("]");
}

static int heard(sd_bus_message *m, void *userdata, sd_bus_error *error) {
    (void)userdata, (void)error;
    say("S {\"path\":");
    say_string(sd_bus_message_get_path(m));
    say(",\"member\":");
    say_string(sd_bus_message_get_member(m));
    say(",\"args\":");
    say_all(m);
    say("}");
    send_line();
    return 0;
}

static int replied(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
    (void)error;
    char *id = userdata;
    if (sd_bus_message_is_method_error(reply, NULL)) {
        say("E %s %s: %s", id, sd_bus_message_get_error(reply)->name, sd_bus_message_get_error(reply)->message);
    } else {
        say("R %s ", id);
        say_all(reply);
    }
    send_line();
    free(id);
    return 0;
}

// "get SERVICE PATH INTERFACE": Properties.GetAll; "prop SERVICE PATH INTERFACE NAME": Properties.Get; "objects SERVICE
// PATH": GetManagedObjects; "run COMMAND": a shell's output and status, when it has ended.
static void ask(sd_bus *bus, char *text) {
    char *word[6] = {0}, *rest = text, *id;
    for (int i = 0; i < 6 && rest; i++) word[i] = strsep(&rest, " ");
    if (!word[0] || !word[1] || !(id = strdup(word[0]))) return;
    if (!strcmp(word[1], "get") && word[4]) {
        if (sd_bus_call_method_async(bus, NULL, word[2], word[3], PROPERTIES, "GetAll", replied, id, "s", word[4]) >= 0)
            return;
    } else if (!strcmp(word[1], "prop") && word[5]) {
        if (sd_bus_call_method_async(bus, NULL, word[2], word[3], PROPERTIES, "Get", replied, id, "ss", word[4],
                                     word[5]) >= 0)
            return;
    } else if (!strcmp(word[1], "objects") && word[3]) {
        if (sd_bus_call_method_async(bus, NULL, word[2], word[3], "org.freedesktop.DBus.ObjectManager",
                                     "GetManagedObjects", replied, id, NULL) >= 0)
            return;
    }
    say("E %s it cannot be asked", id);
    send_line();
    free(id);
}

struct running {
    char *id;
    FILE *pipe;
    char text[16384];
    size_t length;
};

static int output(sd_event_source *source, int fd, uint32_t events, void *userdata) {
    (void)events;
    struct running *r = userdata;
    ssize_t n = read(fd, r->text + r->length, sizeof r->text - 1 - r->length);
    if (n > 0) {
        r->length += (size_t)n;
        return 0;
    }
    sd_event_source_unref(source);
    int status = pclose(r->pipe);
    say("R %s [%d,", r->id, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    say_string(r->text);
    say("]");
    send_line();
    free(r->id);
    free(r);
    return 0;
}

static void run(char *id, const char *command) {
    struct running *r = calloc(1, sizeof *r);
    if (!r || !(r->id = strdup(id)) || !(r->pipe = popen(command, "re"))) exit(1);
    CHECK(sd_event_add_io(loop, NULL, fileno(r->pipe), EPOLLIN, output, r));
}

static int asked(sd_event_source *source, int fd, uint32_t events, void *userdata) {
    (void)source, (void)events;
    static char in[4096];
    static size_t length;
    ssize_t n = read(fd, in + length, sizeof in - 1 - length);
    if (n <= 0) return 0;
    length += (size_t)n;
    in[length] = 0;
    char *end;
    while ((end = strchr(in, '\n'))) {
        *end = 0;
        char *verb = strchr(in, ' ');
        if (verb && !strncmp(verb, " run ", 5)) {
            *verb = 0;
            run(in, verb + 5);
        } else {
            ask(userdata, in);
        }
        length -= (size_t)(end + 1 - in);
        memmove(in, end + 1, length + 1);
    }
    if (length == sizeof in - 1) length = 0; // Noise.
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: agent /dev/ttySN\n");
        return 64;
    }
    sd_bus *bus;
    struct termios raw;
    line = CHECK(errno_of(open(argv[1], O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)));
    CHECK(errno_of(tcgetattr(line, &raw)));
    cfmakeraw(&raw);
    cfsetspeed(&raw, B115200);
    raw.c_cflag |= CLOCAL | CREAD;
    CHECK(errno_of(tcsetattr(line, TCSAFLUSH, &raw)));
    CHECK(sd_bus_open_system(&bus));
    CHECK(sd_event_default(&loop));
    CHECK(sd_bus_attach_event(bus, loop, 0));
    static const char *const heard_of[] = {
        "type='signal',interface='" PROPERTIES "',member='PropertiesChanged',path_namespace='/xyz/openbmc_project/control'",
        "type='signal',interface='" PROPERTIES "',member='PropertiesChanged',path_namespace='/xyz/openbmc_project/state'",
        "type='signal',interface='" PROPERTIES "',member='PropertiesChanged',path_namespace='/xyz/openbmc_project/sensors'",
        "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" ACPI "'",
    };
    for (size_t i = 0; i < sizeof heard_of / sizeof *heard_of; i++)
        CHECK(sd_bus_add_match(bus, NULL, heard_of[i], heard, NULL));
    CHECK(sd_event_add_io(loop, NULL, line, EPOLLIN, asked, bus));
    // A BMC that was reset in the middle of a line left it without an end.
    say("\nH");
    send_line();
    sd_notify(0, "READY=1");
    return CHECK(sd_event_loop(loop));
}
