/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "intel_hex.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { DATA = 0, END = 1, SEGMENT = 2, START_SEGMENT = 3, LINEAR = 4, START_LINEAR = 5 };

/* One line ":LLAAAATT<data>CC" to bytes; the length, or -1 when it is none. */
static int decode(const char *line, uint8_t *bytes, size_t size)
{
    if (*line++ != ':')
        return -1;
    size_t count = 0;
    uint8_t sum = 0;
    for (; line[0] && line[0] != '\r' && line[0] != '\n'; line += 2) {
        if (count == size || sscanf(line, "%2hhx", &bytes[count]) != 1 || !line[1])
            return -1;
        sum = (uint8_t)(sum + bytes[count++]);
    }
    return count >= 5 && count == bytes[0] + 5u && sum == 0 ? (int)count : -1;
}

bool intel_hex_load(const char *path, uint8_t *memory, size_t length, char *error, size_t size)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        snprintf(error, size, "firmware %s: %s", path, strerror(errno));
        return false;
    }
    char line[600];
    uint8_t record[300];
    unsigned number = 0;
    size_t base = 0;
    bool ended = false;
    const char *problem = NULL;
    while (!problem && !ended && fgets(line, sizeof line, file)) {
        number++;
        if (line[0] == '\n' || line[0] == '\r')
            continue;
        if (decode(line, record, sizeof record) < 0) {
            problem = "not an Intel HEX record, or its checksum is wrong";
            break;
        }
        size_t address = base + (size_t)(record[1] << 8 | record[2]);
        switch (record[3]) {
        case DATA:
            if (address + record[0] > length)
                problem = "data beyond the end of the flash";
            else
                memcpy(memory + address, record + 4, record[0]);
            break;
        case END:
            ended = true;
            break;
        case SEGMENT:
            base = (size_t)(record[4] << 8 | record[5]) << 4;
            break;
        case LINEAR:
            base = (size_t)(record[4] << 8 | record[5]) << 16;
            break;
        case START_SEGMENT:
        case START_LINEAR:
            break;
        default:
            problem = "unknown record type";
        }
    }
    fclose(file);
    if (!problem && !ended)
        problem = "no end record: the file is cut short";
    if (problem) {
        snprintf(error, size, "firmware %s line %u: %s", path, number, problem);
        return false;
    }
    return true;
}
