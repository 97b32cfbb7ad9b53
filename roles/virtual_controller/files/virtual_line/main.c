/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * virtual_line: one serial line with simulated controllers and their programmers. See README.md of the role. */
#define _GNU_SOURCE
#include "control.h"
#include "site.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND 1000000u
/* Boards are stepped in turn by slices: short ones while the line talks, so that they hear each other in time. */
#define BUSY_SLICE (HEARING_DELAY - 1000)
#define IDLE_SLICE (MILLISECOND / 2)
#define BUSY_TICK (MILLISECOND / 4)
#define IDLE_TICK (5 * MILLISECOND)
#define OPENING_TICK (2 * MILLISECOND)
/* Behind the wall clock by more than this (a machine under load), the rest is not made up for but lost. */
#define LARGEST_LAG (20 * MILLISECOND)

enum { EXIT_CONFIGURATION = 2, EXIT_ALREADY_RUNNING = 3, EXIT_NOT_RUNNING = 4 };
enum { MAX_CLIENTS = 16 };

static volatile sig_atomic_t stop_requested;

static void request_stop(int signal_number)
{
    (void)signal_number;
    stop_requested = 1;
}

static uint64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- simulated time */

static void step_board(struct site *site, struct board *board, uint64_t end)
{
    const struct wire_byte *byte;
    for (unsigned i = 0; (byte = wire_heard_before(&site->wire, i, end)); i++) {
        if (byte->source == board->index)
            continue;
        board_run_until(board, byte->time);
        board_hear(board, byte->byte);
    }
    board_run_until(board, end);
}

static void advance(struct site *site, uint64_t wall)
{
    struct wire *wire = &site->wire;
    uint64_t target = wall - site->lost;
    if (target > wire->time + LARGEST_LAG) {
        site->lost += target - (wire->time + LARGEST_LAG);
        target = wire->time + LARGEST_LAG;
    }
    while (wire->time < target) {
        uint64_t slice = wire_busy(wire) ? BUSY_SLICE : IDLE_SLICE;
        uint64_t end = target - wire->time < slice ? target : wire->time + slice;
        wire->slice_end = end;
        for (int i = 0; i < site->board_count; i++)
            step_board(site, &site->boards[i], end);
        wire->time = end;
        wire_forget_before(wire, end);
    }
    wire_close_frame_after_gap(wire);
    wire_write_master(wire);
}

/* ---- control clients */

struct client {
    int fd;
    char line[1024];
    size_t length;
};

static void accept_client(int listener, struct client *clients)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    for (int i = 0; i < MAX_CLIENTS; i++) {
        if (clients[i].fd >= 0)
            continue;
        clients[i] = (struct client){.fd = fd};
        /* A client that does not fetch its answer must not stop the line for longer than this. */
        struct timeval patience = {.tv_usec = 100000};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        return;
    }
    close(fd);
}

static void close_client(struct client *client)
{
    close(client->fd);
    client->fd = -1;
}

static void serve_client(struct site *site, struct client *client)
{
    static char answer[65536];
    ssize_t got = recv(client->fd, client->line + client->length, sizeof client->line - 1 - client->length, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            close_client(client);
        return;
    }
    client->length += (size_t)got;
    client->line[client->length] = 0;
    char *end;
    while (client->fd >= 0 && (end = strchr(client->line, '\n'))) {
        *end = 0;
        control_command(site, client->line, answer, sizeof answer - 1);
        strcat(answer, "\n");
        size_t length = strlen(answer);
        if (send(client->fd, answer, length, MSG_NOSIGNAL) != (ssize_t)length)
            close_client(client);
        client->length -= (size_t)(end + 1 - client->line);
        memmove(client->line, end + 1, client->length + 1);
    }
    if (client->fd >= 0 && client->length == sizeof client->line - 1)
        close_client(client);
}

/* ---- the loop */

/* What one poll waits for; a descriptor of -1 is left out. */
struct watched {
    struct pollfd line, listener, programmers[MAX_BOARDS], clients[MAX_CLIENTS];
};

static struct pollfd watch(int fd, bool wanted)
{
    return (struct pollfd){.fd = wanted ? fd : -1, .events = POLLIN};
}

static void wait_for_events(struct site *site, int listener, const struct client *clients, struct watched *watched)
{
    uint64_t now = clock_now();
    uint64_t due = now + (wire_busy(&site->wire) ? BUSY_TICK : IDLE_TICK);
    watched->listener = watch(listener, true);
    watched->line = watch(site->wire.port.master, site->wire.port.in_use);
    for (int i = 0; i < MAX_BOARDS; i++) {
        struct programmer *programmer = &site->programmers[i];
        bool present = i < site->board_count;
        watched->programmers[i] = watch(programmer->port.master, present && programmer->port.in_use && programmer_has_room(programmer));
        if (present && programmer_next_event(programmer) < due)
            due = programmer_next_event(programmer);
    }
    for (int i = 0; i < MAX_CLIENTS; i++)
        watched->clients[i] = watch(clients[i].fd, true);
    struct timespec timeout = {.tv_nsec = (long)(due > now ? due - now : 0)};
    ppoll((struct pollfd *)watched, sizeof *watched / sizeof(struct pollfd), &timeout, NULL);
}

static void look_for_openings(struct site *site, uint64_t now)
{
    static uint64_t next;
    if (now < next)
        return;
    next = now + OPENING_TICK;
    struct port *closed[1 + MAX_BOARDS];
    struct pollfd fds[1 + MAX_BOARDS];
    nfds_t count = 0;
    for (int i = -1; i < site->board_count; i++) {
        struct port *port = i < 0 ? &site->wire.port : &site->programmers[i].port;
        if (!port_is_closed(port))
            continue;
        closed[count] = port;
        fds[count++] = watch(port->master, true);
    }
    if (!count || poll(fds, count, 0) < 0)
        return;
    for (nfds_t i = 0; i < count; i++)
        port_notice_opening(closed[i], fds[i].revents);
}

static void run(struct site *site, int listener)
{
    static struct client clients[MAX_CLIENTS];
    struct watched watched;
    for (int i = 0; i < MAX_CLIENTS; i++)
        clients[i].fd = -1;
    while (!stop_requested) {
        wait_for_events(site, listener, clients, &watched);
        uint64_t now = clock_now();
        advance(site, now);
        look_for_openings(site, now);
        if (watched.line.revents)
            wire_read_master(&site->wire);
        for (int i = 0; i < site->board_count; i++) {
            if (watched.programmers[i].revents)
                programmer_receive(&site->programmers[i], now);
            programmer_work(&site->programmers[i], now);
        }
        for (int i = 0; i < MAX_CLIENTS; i++)
            if (watched.clients[i].revents)
                serve_client(site, &clients[i]);
        if (watched.listener.revents)
            accept_client(listener, clients);
    }
}

/* ---- start and stop */

static bool make_directories(const struct site *site, char *error, size_t size)
{
    bool good = make_directory_of(AT_FDCWD, site->control, error, size);
    for (int i = 0; good && i < site->board_count; i++) {
        char directory[4096];
        snprintf(directory, sizeof directory, "%s/", site->boards[i].directory);
        good = make_directory_of(AT_FDCWD, directory, error, size);
    }
    return good;
}

static int open_control_socket(const char *path, char *error, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        snprintf(error, size, "control socket %s: longer than the %zu bytes a socket's path may have", path, sizeof address.sun_path - 1);
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        snprintf(error, size, "control socket %s: another simulator answers there: stop that one first", path);
        close(fd);
        return -1;
    }
    unlink(path); /* left over by a simulator that was killed */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, MAX_CLIENTS) < 0) {
        snprintf(error, size, "control socket %s: %s", path, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static bool open_site(struct site *site, char *error, size_t size)
{
    site->wire.port.master = site->wire.port.dev = -1;
    site->wire.time = clock_now();
    srandom(1); /* faults happen at the same places in every run */
    for (int i = 0; i < site->board_count; i++)
        if (!board_open(&site->boards[i], site->firmware[i], error, size))
            return false;
    if (!port_plug(&site->wire.port, site->dev, error, size))
        return false;
    for (int i = 0; i < site->board_count; i++)
        if (site->programmers[i].port.link && !port_plug(&site->programmers[i].port, site->dev, error, size))
            return false;
    for (int i = 0; i < site->fault_count; i++) {
        const struct initial_fault *fault = &site->faults[i];
        char command[1024], answer[65536];
        snprintf(command, sizeof command, "%s %s", fault->board < 0 ? "line" : site->boards[fault->board].name, fault->command);
        if (!control_command(site, command, answer, sizeof answer)) {
            snprintf(error, size, "fault \"%s\": %.2000s", command, answer);
            return false;
        }
    }
    return true;
}

static void close_site(struct site *site)
{
    port_unplug(&site->wire.port);
    for (int i = 0; i < site->board_count; i++)
        if (site->programmers[i].port.link)
            port_unplug(&site->programmers[i].port);
    unlink(site->control);
}

/* The process in the pidfile if it still holds its lock, else 0. */
static pid_t holder_of(const char *pidfile)
{
    int fd = open(pidfile, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    char text[32] = "";
    bool held = flock(fd, LOCK_SH | LOCK_NB) < 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    return held && length > 0 ? (pid_t)atoi(text) : 0;
}

/* Names the pidfiles (NAME.pid) of a directory whose processes run. */
static int list_holders(const char *directory)
{
    DIR *listing = opendir(directory);
    const struct dirent *entry;
    while (listing && (entry = readdir(listing))) {
        char path[4096];
        int name = (int)strlen(entry->d_name) - 4;
        if (name <= 0 || strcmp(entry->d_name + name, ".pid") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (holder_of(path))
            printf("%.*s\n", name, entry->d_name);
    }
    if (listing)
        closedir(listing);
    return 0;
}

static int stop_holder(const char *pidfile)
{
    pid_t pid = holder_of(pidfile);
    if (!pid) {
        printf("not running\n");
        return EXIT_NOT_RUNNING;
    }
    kill(pid, SIGTERM);
    for (int i = 0; i < 500; i++) {
        if (!holder_of(pidfile)) {
            printf("stopped %d\n", (int)pid);
            return 0;
        }
        usleep(10000);
    }
    fprintf(stderr, "virtual_line: process %d did not end within 5 s\n", (int)pid);
    return 1;
}

static int lock_pidfile(const char *pidfile)
{
    char error[4096];
    if (!make_directory_of(AT_FDCWD, pidfile, error, sizeof error)) {
        fprintf(stderr, "virtual_line: pidfile: %s\n", error);
        exit(EXIT_CONFIGURATION);
    }
    int fd = open(pidfile, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        fprintf(stderr, "virtual_line: pidfile %s: %s\n", pidfile, strerror(errno));
        exit(EXIT_CONFIGURATION);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        fprintf(stderr, "virtual_line: already running as process %d (%s)\n", (int)holder_of(pidfile), pidfile);
        exit(EXIT_ALREADY_RUNNING);
    }
    return fd;
}

static void write_pid(int fd)
{
    char text[32];
    int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) < 0)
        fprintf(stderr, "virtual_line: pidfile: %s\n", strerror(errno));
}

static void become_daemon(const char *log)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "virtual_line: fork: %s\n", strerror(errno));
        exit(1);
    }
    if (pid > 0)
        _exit(0);
    setsid();
    int nothing = open("/dev/null", O_RDWR);
    int out = log ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    dup2(nothing, 0);
    dup2(out < 0 ? nothing : out, 1);
    dup2(out < 0 ? nothing : out, 2);
    if (chdir("/") < 0)
        perror("/");
}

static void take_priority(void)
{
    /* Boards do not run slower because the machine is busy. Without the right to ask for it they do. */
    struct sched_param parameter = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameter) < 0)
        setpriority(PRIO_PROCESS, 0, -10);
    prctl(PR_SET_TIMERSLACK, 1000);
}

static const char usage[] =
    "usage: virtual_line --config FILE [--daemon] [--pidfile FILE] [--log FILE] [--end-with-parent]\n"
    "       virtual_line --check --config FILE\n"
    "       virtual_line --control SOCKET BOARD|line COMMAND [ARGUMENT...]\n"
    "       virtual_line --status PIDFILE | --stop PIDFILE | --list DIRECTORY\n";

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"daemon", no_argument, NULL, 'd'},
        {"pidfile", required_argument, NULL, 'p'}, {"log", required_argument, NULL, 'l'},
        {"end-with-parent", no_argument, NULL, 'e'}, {"check", no_argument, NULL, 'k'},
        {"control", required_argument, NULL, 'C'}, {"status", required_argument, NULL, 's'},
        {"stop", required_argument, NULL, 'S'}, {"list", required_argument, NULL, 'L'}, {"help", no_argument, NULL, 'h'}, {0},
    };
    const char *config = NULL, *pidfile = NULL, *log = NULL;
    bool daemon = false, end_with_parent = false, check = false;
    int option;
    while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        switch (option) {
        case 'c': config = optarg; break;
        case 'd': daemon = true; break;
        case 'p': pidfile = optarg; break;
        case 'l': log = optarg; break;
        case 'e': end_with_parent = true; break;
        case 'k': check = true; break;
        case 'C': return control_client(optarg, argv + optind, argc - optind);
        case 's': {
            pid_t pid = holder_of(optarg);
            pid ? printf("running %d\n", (int)pid) : printf("not running\n");
            return pid ? 0 : EXIT_NOT_RUNNING;
        }
        case 'S': return stop_holder(optarg);
        case 'L': return list_holders(optarg);
        case 'h': fputs(usage, stdout); return 0;
        default: fputs(usage, stderr); return EXIT_CONFIGURATION;
        }
    }
    if (!config || optind != argc) {
        fputs(usage, stderr);
        return EXIT_CONFIGURATION;
    }
    /* Before anything else: a parent that is gone already sends no signal any more. */
    if (end_with_parent) {
        pid_t parent = getppid();
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            return 1;
    }
    static struct site site;
    char error[4096];
    if (!config_read(&site, config, error, sizeof error)) {
        fprintf(stderr, "virtual_line: %s\n", error);
        return EXIT_CONFIGURATION;
    }
    if (check)
        return 0;
    int lock = pidfile ? lock_pidfile(pidfile) : -1;
    int listener = make_directories(&site, error, sizeof error) ? open_control_socket(site.control, error, sizeof error) : -1;
    if (listener < 0 || !open_site(&site, error, sizeof error)) {
        fprintf(stderr, "virtual_line: %s\n", error);
        if (listener >= 0)
            close_site(&site);
        if (pidfile)
            unlink(pidfile);
        return EXIT_CONFIGURATION;
    }
    /* Before anybody hears that it runs: who is told may end it in the same moment. */
    signal(SIGTERM, request_stop);
    signal(SIGINT, request_stop);
    signal(SIGPIPE, SIG_IGN);
    if (daemon)
        signal(SIGHUP, SIG_IGN);
    printf("virtual_line: %s with %d board%s\n", site.wire.port.link, site.board_count, site.board_count == 1 ? "" : "s");
    fflush(stdout);
    if (daemon)
        become_daemon(log);
    if (lock >= 0)
        write_pid(lock);
    take_priority();
    run(&site, listener);
    close_site(&site);
    if (pidfile)
        unlink(pidfile);
    return 0;
}
