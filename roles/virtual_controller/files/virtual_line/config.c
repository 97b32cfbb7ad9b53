/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The configuration file: "key = value" lines about the line, then a section "[board NAME]" for each board. */
#define _GNU_SOURCE
#include "site.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct reader {
    struct site *site;
    const char *path;
    unsigned line;
    unsigned programmer_baudrate, programmer_autoreset;
    bool programmer_delays;
    char *error;
    size_t size;
};

static bool reject(struct reader *reader, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = snprintf(reader->error, reader->size, "%s line %u: ", reader->path, reader->line);
    vsnprintf(reader->error + length, reader->size - (size_t)length, format, arguments);
    va_end(arguments);
    return false;
}

static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = 0;
    return text;
}

static bool number(struct reader *reader, const char *key, const char *value, unsigned low, unsigned high, unsigned *result)
{
    char *end;
    errno = 0;
    unsigned long parsed = strtoul(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || errno || parsed < low || parsed > high)
        return reject(reader, "%s = %s: expected a number from %u to %u", key, value, low, high);
    *result = (unsigned)parsed;
    return true;
}

static bool good_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("_.-", *c))
            return false;
    return *name && strcmp(name, "line") != 0;
}

static bool begin_board(struct reader *reader, const char *name)
{
    struct site *site = reader->site;
    if (!good_name(name))
        return reject(reader, "board name \"%s\": expected letters, digits, '_', '.' or '-', and not \"line\"", name);
    for (int i = 0; i < site->board_count; i++)
        if (strcmp(site->boards[i].name, name) == 0)
            return reject(reader, "board %s is there twice", name);
    if (site->board_count == MAX_BOARDS)
        return reject(reader, "more than %d boards on one line", MAX_BOARDS);
    struct board *board = &site->boards[site->board_count];
    board->name = strdup(name);
    board->index = site->board_count;
    board->wire = &site->wire;
    programmer_init(&site->programmers[site->board_count], board);
    site->board_count++;
    return true;
}

static bool add_fault(struct reader *reader, const char *command)
{
    struct site *site = reader->site;
    if (site->fault_count == MAX_FAULTS)
        return reject(reader, "more than %d faults", MAX_FAULTS);
    site->faults[site->fault_count++] = (struct initial_fault){site->board_count - 1, strdup(command)};
    return true;
}

static bool add_alias(struct reader *reader, struct port *port, const char *alias)
{
    if (port->alias_count == MAX_ALIASES)
        return reject(reader, "more than %d aliases of one port", MAX_ALIASES);
    port->aliases[port->alias_count++] = strdup(alias);
    return true;
}

static bool set_of_line(struct reader *reader, const char *key, const char *value)
{
    struct site *site = reader->site;
    unsigned delays;
    if (strcmp(key, "line") == 0)
        site->wire.port.link = strdup(value);
    else if (strcmp(key, "alias") == 0)
        return add_alias(reader, &site->wire.port, value);
    else if (strcmp(key, "dev") == 0)
        site->dev = strdup(value);
    else if (strcmp(key, "control") == 0)
        site->control = strdup(value);
    else if (strcmp(key, "baudrate") == 0)
        return number(reader, key, value, 1200, 1000000, &site->wire.baudrate);
    else if (strcmp(key, "programmer_baudrate") == 0)
        return number(reader, key, value, 0, 1000000, &reader->programmer_baudrate);
    else if (strcmp(key, "programmer_autoreset") == 0)
        return number(reader, key, value, 0, 10000, &reader->programmer_autoreset);
    else if (strcmp(key, "programmer_delays") == 0) {
        if (!number(reader, key, value, 0, 1, &delays))
            return false;
        reader->programmer_delays = delays;
    } else
        return reject(reader, "unknown key \"%s\": expected line, alias, dev, control, baudrate, programmer_baudrate, "
                              "programmer_delays, programmer_autoreset or fault", key);
    return true;
}

static bool set_of_board(struct reader *reader, const char *key, const char *value)
{
    struct site *site = reader->site;
    int index = site->board_count - 1;
    if (strcmp(key, "unit") == 0)
        return number(reader, key, value, 1, 247, &site->boards[index].unit);
    if (strcmp(key, "directory") == 0)
        site->boards[index].directory = strdup(value);
    else if (strcmp(key, "programmer") == 0)
        site->programmers[index].port.link = strdup(value);
    else if (strcmp(key, "alias") == 0)
        return add_alias(reader, &site->programmers[index].port, value);
    else if (strcmp(key, "firmware") == 0)
        site->firmware[index] = strdup(value);
    else
        return reject(reader, "unknown key \"%s\" of board %s: expected unit, directory, programmer, alias, firmware or fault", key,
                      site->boards[index].name);
    return true;
}

static bool read_line(struct reader *reader, char *text)
{
    text = trimmed(text);
    if (!*text || *text == '#')
        return true;
    size_t length = strlen(text);
    if (*text == '[') {
        if (strncmp(text, "[board ", 7) != 0 || text[length - 1] != ']')
            return reject(reader, "%s: expected \"[board NAME]\"", text);
        text[length - 1] = 0;
        return begin_board(reader, trimmed(text + 7));
    }
    char *equals = strchr(text, '=');
    if (!equals)
        return reject(reader, "\"%s\": expected \"key = value\"", text);
    *equals = 0;
    const char *key = trimmed(text), *value = trimmed(equals + 1);
    if (!*value)
        return reject(reader, "%s has no value", key);
    if (strcmp(key, "fault") == 0)
        return add_fault(reader, value);
    return reader->site->board_count ? set_of_board(reader, key, value) : set_of_line(reader, key, value);
}

static bool same(const char *one, const char *other)
{
    return one && other && strcmp(one, other) == 0;
}

static bool complete(struct reader *reader)
{
    struct site *site = reader->site;
    if (!site->wire.port.link)
        return reject(reader, "no \"line = PATH\": where is the line's port to appear?");
    if (!site->control)
        return reject(reader, "no \"control = PATH\": where is the control socket to be?");
    if (!site->board_count)
        return reject(reader, "no \"[board NAME]\": a line without boards");
    for (int i = 0; i < site->board_count; i++) {
        const struct board *board = &site->boards[i];
        const char *link = site->programmers[i].port.link;
        if (!board->unit)
            return reject(reader, "board %s has no \"unit = NUMBER\"", board->name);
        if (!board->directory)
            return reject(reader, "board %s has no \"directory = PATH\" for its memories", board->name);
        if (same(link, site->wire.port.link))
            return reject(reader, "board %s: programmer and line are both %s", board->name, link);
        for (int j = 0; j < i; j++) {
            const struct board *other = &site->boards[j];
            if (board->unit == other->unit)
                return reject(reader, "boards %s and %s both have unit %u", other->name, board->name, board->unit);
            if (same(board->directory, other->directory))
                return reject(reader, "boards %s and %s share the directory %s", other->name, board->name, board->directory);
            if (same(link, site->programmers[j].port.link))
                return reject(reader, "boards %s and %s share the programmer %s", other->name, board->name, link);
        }
        struct programmer *programmer = &site->programmers[i];
        programmer->baudrate = reader->programmer_baudrate;
        programmer->realistic_delays = reader->programmer_delays;
        programmer->autoreset = reader->programmer_autoreset;
    }
    site->wire.character_time = 10000000000u / site->wire.baudrate;
    return true;
}

bool config_read(struct site *site, const char *path, char *error, size_t size)
{
    struct reader reader = {.site = site, .path = path, .error = error, .size = size};
    FILE *file = fopen(path, "r");
    if (!file) {
        snprintf(error, size, "configuration %s: %s", path, strerror(errno));
        return false;
    }
    site->wire.baudrate = 115200;
    char text[8192];
    bool good = true;
    while (good && fgets(text, sizeof text, file)) {
        reader.line++;
        good = read_line(&reader, text);
    }
    fclose(file);
    return good && complete(&reader);
}
