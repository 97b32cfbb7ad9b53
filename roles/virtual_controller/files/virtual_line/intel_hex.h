/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef INTEL_HEX_H
#define INTEL_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool intel_hex_load(const char *path, uint8_t *memory, size_t length, char *error, size_t size);

#endif
