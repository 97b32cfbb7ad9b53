/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_WORDS = 8 };

struct text {
    char *start;
    size_t length, size;
};

static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->start + text->length, text->size - text->length, format, arguments);
    va_end(arguments);
    text->length += (size_t)length;
    if (text->length >= text->size)
        text->length = text->size - 1;
}

static void add_string(struct text *text, const char *string)
{
    add(text, "\"");
    for (; *string; string++) {
        if (*string == '"' || *string == '\\')
            add(text, "\\%c", *string);
        else if ((unsigned char)*string < ' ')
            add(text, "\\u%04x", *string);
        else
            add(text, "%c", *string);
    }
    add(text, "\"");
}

static bool refuse(struct text *answer, const char *format, ...)
{
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    answer->length = 0;
    add(answer, "{\"error\": ");
    add_string(answer, message);
    add(answer, "}");
    return false;
}

static const char *yes_no(bool value)
{
    return value ? "true" : "false";
}

/* ---- what there is to see */

static double milliseconds(uint64_t nanoseconds)
{
    return (double)nanoseconds / 1e6;
}

static void add_traffic(struct text *text, const struct wire *wire, unsigned unit)
{
    const struct unit_traffic *traffic = &wire->units[unit];
    uint64_t gap = traffic->longest_gap;
    if (traffic->requests && wire->time - traffic->last_request > gap && wire->time > traffic->last_request)
        gap = wire->time - traffic->last_request;
    add(text, "\"requests\": %llu, \"write_requests\": %llu, \"longest_gap_ms\": %.1f", (unsigned long long)traffic->requests,
        (unsigned long long)traffic->write_requests, milliseconds(gap));
}

static void add_counter(struct text *text, const char *name, uint64_t value)
{
    add(text, ", \"%s\": %llu", name, (unsigned long long)value);
}

static void board_state(struct text *text, const struct site *site, int index)
{
    const struct board *board = &site->boards[index];
    const struct programmer *programmer = &site->programmers[index];
    add(text, "{\"board\": \"%s\", \"unit\": %u, \"mcu\": \"%s\", \"power\": %s, \"in_reset\": %s", board->name, board->unit,
        board_mcu_state(board), yes_no(board->powered), yes_no(board->held_in_reset));
    add(text, ", \"clock_mhz\": %u, \"fuses\": {\"lfuse\": %u, \"hfuse\": %u, \"lock\": %u}", board->megahertz, board->lfuse,
        board->hfuse, board->lock);
    add_counter(text, "boots", board->boots);
    add_counter(text, "uart_rx_bytes", board->uart_received);
    add_counter(text, "uart_tx_bytes", board->uart_sent);
    add(text, ", ");
    add_traffic(text, &site->wire, board->unit);
    add(text, ", \"silent\": %s, \"discard_writes\": %s", yes_no(board->silent), yes_no(board->discard_writes));
    add(text, ", \"programmer\": ");
    if (!programmer->port.link) {
        add(text, "null}");
        return;
    }
    add(text, "{\"link\": ");
    add_string(text, programmer->port.link);
    add(text, ", \"plugged\": %s, \"open\": %s, \"programming\": %s, \"holding\": %s, \"dead\": %s, \"mute\": %s",
        yes_no(programmer->port.master >= 0), yes_no(programmer->port.in_use), yes_no(programmer->programming),
        yes_no(programmer->holding), yes_no(programmer->dead), yes_no(programmer->mute));
    static const char *const names[EVENTS] = {"pages", "erases", "eeprom_writes", "enters", "leaves", "fuse_writes"};
    for (int event = 0; event < EVENTS; event++)
        add_counter(text, names[event], programmer->events[event]);
    add_counter(text, "rx_bytes", programmer->bytes_received);
    add_counter(text, "tx_bytes", programmer->bytes_sent);
    add_counter(text, "no_sync", programmer->no_sync);
    add_counter(text, "opened", programmer->port.opened);
    add(text, "}}");
}

static void line_state(struct text *text, const struct site *site)
{
    const struct wire *wire = &site->wire;
    uint64_t requests = 0, writes = 0;
    for (int unit = 0; unit < UNITS; unit++) {
        requests += wire->units[unit].requests;
        writes += wire->units[unit].write_requests;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    add(text, "{\"line\": ");
    add_string(text, wire->port.link);
    add(text, ", \"pid\": %d, \"plugged\": %s, \"open\": %s, \"baudrate\": %u", (int)getpid(), yes_no(wire->port.master >= 0),
        yes_no(wire->port.in_use), wire->baudrate);
    add_counter(text, "requests", requests);
    add_counter(text, "write_requests", writes);
    add_counter(text, "rx_bytes", wire->bytes_from_master);
    add_counter(text, "tx_bytes", wire->bytes_to_master);
    add_counter(text, "bad_frames", wire->bad_frames);
    add_counter(text, "gap_violations", wire->gap_violations);
    add_counter(text, "collisions", wire->collisions);
    add_counter(text, "discarded", wire->discarded);
    add_counter(text, "noise_hits", wire->noise_hits);
    add_counter(text, "opened", wire->port.opened);
    add(text, ", \"cpu_s\": %.3f, \"lost_ms\": %.1f, \"units\": {", cpu, milliseconds(site->lost));
    const char *comma = "";
    for (unsigned unit = 0; unit < UNITS; unit++) {
        if (!wire->units[unit].requests)
            continue;
        add(text, "%s\"%u\": {", comma, unit);
        add_traffic(text, wire, unit);
        add(text, "}");
        comma = ", ";
    }
    add(text, "}, \"boards\": {");
    for (int i = 0; i < site->board_count; i++) {
        add(text, "%s\"%s\": ", i ? ", " : "", site->boards[i].name);
        board_state(text, site, i);
    }
    add(text, "}}");
}

/* ---- commands */

static bool parse_number(const char *word, long low, long high, long *value)
{
    char *end;
    errno = 0;
    *value = strtol(word, &end, 0);
    return *word && !*end && !errno && *value >= low && *value <= high;
}

static bool parse_switch(const char *word, bool *value)
{
    *value = strcmp(word, "on") == 0;
    return *value || strcmp(word, "off") == 0;
}

static bool switch_command(struct text *answer, char **words, int count, bool *value)
{
    if (count != 2 || !parse_switch(words[1], value))
        return refuse(answer, "%s: expected on or off", words[0]);
    return true;
}

static bool number_command(struct text *answer, char **words, int count, long low, long high, long *value)
{
    if (count != 2 || !parse_number(words[1], low, high, value))
        return refuse(answer, "%s: expected one number from %ld to %ld", words[0], low, high);
    return true;
}

static bool power_command(struct text *answer, struct board *board, char **words, int count)
{
    bool on;
    if (!switch_command(answer, words, count, &on))
        return false;
    board_power(board, on);
    return true;
}

/* hold_after_pages N, hold_at EVENT [N], the same with die and power_off (those take "half" at the end). */
static bool trigger_command(struct text *answer, struct trigger *trigger, bool at_event, char **words, int count, bool *half)
{
    if (half) {
        *half = count > 1 && strcmp(words[count - 1], "half") == 0;
        count -= *half;
    }
    long number = 1;
    int event = EVENT_PAGE;
    bool good;
    if (at_event) {
        for (event = 0; event < EVENTS && !(count > 1 && strcmp(words[1], programmer_event_names[event]) == 0);)
            event++;
        good = event < EVENTS && (count == 2 || (count == 3 && parse_number(words[2], 1, 1000000, &number)));
    } else {
        good = count == 2 && parse_number(words[1], 1, 1000000, &number);
    }
    if (!good)
        return refuse(answer, at_event ? "%s: expected page, erase, eeprom, enter, leave or fuse, and optionally the how many-th"
                                       : "%s: expected the number of pages, 1 or more", words[0]);
    *trigger = (struct trigger){(enum programmer_event)event, (unsigned)number};
    return true;
}

static bool signature_command(struct text *answer, struct programmer *programmer, char **words, int count)
{
    long byte;
    if (count != 4)
        return refuse(answer, "signature: expected three bytes in hexadecimal");
    for (int i = 0; i < 3; i++) {
        char hex[16];
        snprintf(hex, sizeof hex, "0x%s", words[i + 1]);
        if (!parse_number(hex, 0, 255, &byte))
            return refuse(answer, "signature: \"%s\" is not a byte in hexadecimal", words[i + 1]);
        programmer->signature[i] = (uint8_t)byte;
    }
    programmer->wrong_signature = true;
    return true;
}

static void clear_board(struct site *site, int index)
{
    struct board *board = &site->boards[index];
    board->silent = board->discard_writes = false;
    wire_set_discard(&site->wire, board->unit, board->index, false);
    if (site->programmers[index].port.link)
        programmer_clear_faults(&site->programmers[index]);
    board_power(board, true);
}

static void reset_board_counters(struct site *site, int index)
{
    struct board *board = &site->boards[index];
    struct programmer *programmer = &site->programmers[index];
    board->boots = board->uart_received = board->uart_sent = 0;
    memset(programmer->events, 0, sizeof programmer->events);
    programmer->bytes_received = programmer->bytes_sent = programmer->no_sync = programmer->noise_hits = 0;
    programmer->port.opened = programmer->opened_seen = 0;
}

static bool programmer_command(struct site *site, int index, char **words, int count, struct text *answer, bool *known)
{
    struct programmer *programmer = &site->programmers[index];
    const char *command = words[0];
    long value;
    char problem[512];
    *known = true;
    if (strcmp(command, "hold_after_pages") == 0)
        return trigger_command(answer, &programmer->hold, false, words, count, NULL);
    if (strcmp(command, "hold_at") == 0)
        return trigger_command(answer, &programmer->hold, true, words, count, NULL);
    if (strcmp(command, "die_after_pages") == 0)
        return trigger_command(answer, &programmer->die, false, words, count, NULL);
    if (strcmp(command, "die_at") == 0)
        return trigger_command(answer, &programmer->die, true, words, count, NULL);
    if (strcmp(command, "power_off_after_pages") == 0)
        return trigger_command(answer, &programmer->power_cut, false, words, count, &programmer->power_cut_half);
    if (strcmp(command, "power_off_at") == 0)
        return trigger_command(answer, &programmer->power_cut, true, words, count, &programmer->power_cut_half);
    if (strcmp(command, "signature") == 0)
        return signature_command(answer, programmer, words, count);
    if (strcmp(command, "mute") == 0)
        return switch_command(answer, words, count, &programmer->mute);
    if (strcmp(command, "release") == 0)
        return programmer_release(programmer), true;
    if (strcmp(command, "corrupt_read") == 0 || strcmp(command, "corrupt_write") == 0) {
        if (!number_command(answer, words, count, 0, FLASH_SIZE - 1, &value))
            return false;
        *(command[8] == 'r' ? &programmer->corrupt_read : &programmer->corrupt_write) = (int)value;
        return true;
    }
    if (strcmp(command, "programmer_noise") == 0) {
        if (!number_command(answer, words, count, 0, 1000000, &value))
            return false;
        programmer->noise = (unsigned)value;
        return true;
    }
    if (strcmp(command, "unplug") == 0)
        return port_unplug(&programmer->port), true;
    if (strcmp(command, "plug") == 0)
        return port_plug(&programmer->port, site->dev, problem, sizeof problem) || refuse(answer, "%s", problem);
    *known = false;
    return false;
}

static bool board_command(struct site *site, int index, char **words, int count, struct text *answer)
{
    struct board *board = &site->boards[index];
    const char *command = words[0];
    if (strcmp(command, "state") == 0)
        return true;
    if (strcmp(command, "power") == 0)
        return power_command(answer, board, words, count);
    if (strcmp(command, "reset") == 0)
        return board_reset(board), true;
    if (strcmp(command, "silent") == 0)
        return switch_command(answer, words, count, &board->silent);
    if (strcmp(command, "discard_writes") == 0) {
        if (!switch_command(answer, words, count, &board->discard_writes))
            return false;
        wire_set_discard(&site->wire, board->unit, board->index, board->discard_writes);
        return true;
    }
    if (strcmp(command, "clear") == 0)
        return clear_board(site, index), true;
    if (strcmp(command, "counters_reset") == 0) {
        memset(&site->wire.units[board->unit], 0, sizeof site->wire.units[0]);
        return reset_board_counters(site, index), true;
    }
    bool known = false;
    bool done = site->programmers[index].port.link && programmer_command(site, index, words, count, answer, &known);
    if (!known)
        return refuse(answer, "%s: unknown command \"%s\"%s", board->name, command,
                      site->programmers[index].port.link ? "" : " for a board without programmer");
    return done;
}

/* Their host was started again: the ports that are plugged appear in its new /dev. */
static bool move_ports(struct site *site, const char *dev, struct text *answer)
{
    char problem[4096];
    snprintf(problem, sizeof problem, "%s/ptmx", dev);
    if (access(problem, R_OK | W_OK) < 0)
        return refuse(answer, "dev: %s: %s", problem, strerror(errno));
    site->dev = strdup(dev);
    for (int i = -1; i < site->board_count; i++) {
        struct port *port = i < 0 ? &site->wire.port : &site->programmers[i].port;
        if (port->master < 0)
            continue;
        port_unplug(port);
        if (!port_plug(port, dev, problem, sizeof problem))
            return refuse(answer, "%s", problem);
    }
    return true;
}

static bool line_command(struct site *site, char **words, int count, struct text *answer)
{
    struct wire *wire = &site->wire;
    const char *command = words[0];
    char problem[512];
    long value;
    if (strcmp(command, "state") == 0)
        return true;
    if (strcmp(command, "noise_rx") == 0 || strcmp(command, "noise_tx") == 0) {
        if (!number_command(answer, words, count, 0, 1000000, &value))
            return false;
        *(command[6] == 'r' ? &wire->noise_to_boards : &wire->noise_to_master) = (unsigned)value;
        return true;
    }
    if (strcmp(command, "unplug") == 0)
        return port_unplug(&wire->port), true;
    if (strcmp(command, "plug") == 0)
        return port_plug(&wire->port, site->dev, problem, sizeof problem) || refuse(answer, "%s", problem);
    if (strcmp(command, "dev") == 0)
        return count == 2 ? move_ports(site, words[1], answer) : refuse(answer, "dev: expected one directory");
    if (strcmp(command, "counters_reset") == 0 || strcmp(command, "clear") == 0) {
        bool counters = strcmp(command, "counters_reset") == 0;
        if (counters)
            wire_reset_counters(wire);
        else
            wire->noise_to_boards = wire->noise_to_master = 0;
        for (int i = 0; i < site->board_count; i++)
            counters ? reset_board_counters(site, i) : clear_board(site, i);
        return true;
    }
    return refuse(answer, "line: unknown command \"%s\"", command);
}

bool control_command(struct site *site, const char *line, char *answer_text, size_t size)
{
    struct text answer = {answer_text, 0, size};
    char copy[1024], *words[MAX_WORDS], *rest = copy, *word;
    snprintf(copy, sizeof copy, "%s", line);
    int count = 0;
    while (count < MAX_WORDS && (word = strtok_r(rest, " \t\r\n", &rest)))
        words[count++] = word;
    if (count < 2)
        return refuse(&answer, "expected \"BOARD|line COMMAND [ARGUMENT...]\"");
    if (strcmp(words[0], "line") == 0) {
        if (!line_command(site, words + 1, count - 1, &answer))
            return false;
        line_state(&answer, site);
        return true;
    }
    for (int i = 0; i < site->board_count; i++) {
        if (strcmp(words[0], site->boards[i].name) != 0)
            continue;
        if (!board_command(site, i, words + 1, count - 1, &answer))
            return false;
        board_state(&answer, site, i);
        return true;
    }
    refuse(&answer, "no board \"%s\" on this line", words[0]);
    return false;
}

int control_client(const char *socket_path, char **words, int count)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof address.sun_path) {
        fprintf(stderr, "virtual_line: %s: longer than the %zu bytes a socket's path may have\n", socket_path, sizeof address.sun_path - 1);
        return 2;
    }
    strcpy(address.sun_path, socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fprintf(stderr, "virtual_line: %s: %s: is the simulator running?\n", socket_path, strerror(errno));
        return 2;
    }
    char text[65536];
    size_t length = 0;
    for (int i = 0; i < count && length < sizeof text; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%s", i ? " " : "", words[i]);
    if (length >= sizeof text) {
        fprintf(stderr, "virtual_line: the command is longer than %zu bytes\n", sizeof text - 1);
        return 2;
    }
    text[length++] = '\n';
    if (write(fd, text, length) != (ssize_t)length)
        return 2;
    length = 0;
    ssize_t got;
    while (length < sizeof text - 1 && (got = read(fd, text + length, sizeof text - 1 - length)) > 0) {
        length += (size_t)got;
        if (text[length - 1] == '\n')
            break;
    }
    text[length] = 0;
    fputs(text, stdout);
    if (!length)
        fprintf(stderr, "virtual_line: %s: no answer\n", socket_path);
    return !length ? 2 : strncmp(text, "{\"error\"", 8) == 0;
}
