/* Walks through ZooKeeper's C client against HOSTS and prints what it is told: c_client HOSTS BASE.
 * The caller compares the lines; this program only stops early when it cannot connect. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zookeeper/zookeeper.h>

enum { WAIT_SECONDS = 15, PATH_SIZE = 256, EVENTS_MAX = 16 };

struct journal {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int connected;
    int count;
    int type[EVENTS_MAX];
    char path[EVENTS_MAX][PATH_SIZE];
};

static char base[PATH_SIZE];

static void on_event(zhandle_t *handle, int type, int state, const char *path, void *context) {
    struct journal *journal = context;
    (void)handle;
    pthread_mutex_lock(&journal->mutex);
    if (type == ZOO_SESSION_EVENT) {
        journal->connected = state == ZOO_CONNECTED_STATE;
    } else if (journal->count < EVENTS_MAX) {
        journal->type[journal->count] = type;
        snprintf(journal->path[journal->count], PATH_SIZE, "%s", path);
        journal->count++;
    }
    pthread_cond_broadcast(&journal->changed);
    pthread_mutex_unlock(&journal->mutex);
}

/* Waits for a connection, or with `count` for that many events. */
static int wait_for(struct journal *journal, int count) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += WAIT_SECONDS;
    int result = 0;
    pthread_mutex_lock(&journal->mutex);
    while (result == 0 && (count == 0 ? !journal->connected : journal->count < count))
        result = pthread_cond_timedwait(&journal->changed, &journal->mutex, &deadline);
    pthread_mutex_unlock(&journal->mutex);
    return result;
}

static zhandle_t *connect_to(const char *hosts, struct journal *journal) {
    memset(journal, 0, sizeof *journal);
    pthread_mutex_init(&journal->mutex, NULL);
    pthread_cond_init(&journal->changed, NULL);
    zhandle_t *handle = zookeeper_init(hosts, on_event, 10000, NULL, journal, 0);
    if (handle == NULL || wait_for(journal, 0) != 0) {
        fprintf(stderr, "no connection to %s within %d s\n", hosts, WAIT_SECONDS);
        exit(2);
    }
    return handle;
}

/* The path of a node below the base; the last four results stay valid. */
static const char *below(const char *name) {
    static char paths[4][2 * PATH_SIZE];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s%s", base, name);
    return path;
}

/* A path as it is printed: without the base, which differs from run to run. */
static const char *shown(const char *path) {
    size_t length = strlen(base);
    if (strcmp(path, base) == 0) return "base";
    return strncmp(path, base, length) == 0 ? path + length : path;
}

static void create(zhandle_t *handle, const char *name, const char *data, int mode,
                   const struct ACL_vector *acl) {
    char made[PATH_SIZE] = "";
    int rc = zoo_create2(handle, below(name), data, (int)strlen(data), acl, mode, made, PATH_SIZE,
                         NULL);
    if (rc == ZOK)
        printf("create %s: made %s\n", name, shown(made));
    else
        printf("create %s: %s\n", name, zerror(rc));
}

static void read_node(zhandle_t *handle, const char *name, watcher_fn watcher, void *context) {
    char data[PATH_SIZE];
    int length = PATH_SIZE;
    struct Stat stat;
    int rc = zoo_wget(handle, below(name), watcher, context, data, &length, &stat);
    if (rc != ZOK) {
        printf("get %s: %s\n", name, zerror(rc));
        return;
    }
    printf("get %s: '%.*s' version %d cversion %d aversion %d length %d children %d\n", name,
           length < 0 ? 0 : length, data, stat.version, stat.cversion, stat.aversion,
           stat.dataLength, stat.numChildren);
}

static int by_name(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void list(zhandle_t *handle, const char *name, watcher_fn watcher, void *context) {
    struct String_vector names = {0, NULL};
    int rc = zoo_wget_children(handle, below(name), watcher, context, &names);
    printf("ls %s: %s", name, zerror(rc));
    if (rc == ZOK) {
        qsort(names.data, (size_t)names.count, sizeof *names.data, by_name);
        for (int i = 0; i < names.count; i++) printf(" %s", names.data[i]);
        deallocate_String_vector(&names);
    }
    printf("\n");
}

static void show_acl(zhandle_t *handle, const char *name) {
    struct ACL_vector acl;
    struct Stat stat;
    int rc = zoo_get_acl(handle, below(name), &acl, &stat);
    printf("getAcl %s: %s", name, zerror(rc));
    if (rc == ZOK) {
        for (int i = 0; i < acl.count; i++)
            printf(" %s:%s:%d", acl.data[i].id.scheme, acl.data[i].id.id, acl.data[i].perms);
        deallocate_ACL_vector(&acl);
    }
    printf("\n");
}

static void on_auth(int rc, const void *context) {
    struct journal *journal = (struct journal *)context;
    printf("addauth: %s\n", zerror(rc));
    pthread_mutex_lock(&journal->mutex);
    journal->count++;
    pthread_cond_broadcast(&journal->changed);
    pthread_mutex_unlock(&journal->mutex);
}

static void authenticate(zhandle_t *handle) {
    struct journal done = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    const char *who = "user:password";
    zoo_add_auth(handle, "digest", who, (int)strlen(who), on_auth, &done);
    if (wait_for(&done, 1) != 0) printf("addauth: no answer\n");
}

static void on_sync(int rc, const char *value, const void *context) {
    (void)value;
    struct journal *journal = (struct journal *)context;
    printf("sync: %s\n", zerror(rc));
    pthread_mutex_lock(&journal->mutex);
    journal->count++;
    pthread_cond_broadcast(&journal->changed);
    pthread_mutex_unlock(&journal->mutex);
}

/* Another session may stand on a server that lags behind the first one's. */
static void sync_node(zhandle_t *handle) {
    struct journal done = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    zoo_async(handle, base, on_sync, &done);
    if (wait_for(&done, 1) != 0) printf("sync: no answer\n");
}

static void walk_nodes(zhandle_t *handle) {
    create(handle, "", "base", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
    create(handle, "/node", "one", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
    create(handle, "/node", "two", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
    create(handle, "/no/parent", "", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
    create(handle, "/s-", "", ZOO_PERSISTENT_SEQUENTIAL, &ZOO_OPEN_ACL_UNSAFE);
    create(handle, "/s-", "", ZOO_EPHEMERAL_SEQUENTIAL, &ZOO_OPEN_ACL_UNSAFE);
    list(handle, "", NULL, NULL);
    read_node(handle, "/node", NULL, NULL);
    printf("set /node: %s\n", zerror(zoo_set(handle, below("/node"), "second", 6, 0)));
    printf("set /node: %s\n", zerror(zoo_set(handle, below("/node"), "third", 5, 0)));
    read_node(handle, "/node", NULL, NULL);
    read_node(handle, "/missing", NULL, NULL);
    printf("delete /node: %s\n", zerror(zoo_delete(handle, below("/node"), 7)));
    printf("delete base: %s\n", zerror(zoo_delete(handle, base, -1)));
    struct Stat stat;
    printf("exists /missing: %s\n", zerror(zoo_exists(handle, below("/missing"), 0, &stat)));
    printf("exists /node: %s\n", zerror(zoo_exists(handle, below("/node"), 0, &stat)));
}

static void walk_watches(zhandle_t *handle) {
    struct journal seen = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct Stat stat;
    read_node(handle, "/node", on_event, &seen);
    zoo_set(handle, below("/node"), "seen", 4, -1);
    wait_for(&seen, 1);
    zoo_wexists(handle, below("/born"), on_event, &seen, &stat);
    create(handle, "/born", "", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
    wait_for(&seen, 2);
    list(handle, "/born", on_event, &seen);
    create(handle, "/born/child", "", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
    wait_for(&seen, 3);
    zoo_wexists(handle, below("/born/child"), on_event, &seen, &stat);
    zoo_delete(handle, below("/born/child"), -1);
    wait_for(&seen, 4);
    for (int i = 0; i < seen.count; i++)
        printf("event %d on %s\n", seen.type[i], shown(seen.path[i]));
}

static void walk_multi(zhandle_t *handle) {
    char made[PATH_SIZE];
    struct Stat stat;
    zoo_op_t operations[4];
    zoo_op_result_t results[4];
    zoo_create_op_init(&operations[0], below("/multi"), "m", 1, &ZOO_OPEN_ACL_UNSAFE, 0, made,
                       PATH_SIZE);
    zoo_set_op_init(&operations[1], below("/node"), "by multi", 8, -1, &stat);
    zoo_check_op_init(&operations[2], below("/multi"), 0);
    zoo_delete_op_init(&operations[3], below("/born"), -1);
    printf("multi: %s\n", zerror(zoo_multi(handle, 4, operations, results)));
    printf("multi made %s, version %d\n", shown(made), stat.version);
    printf("multi again: %s\n", zerror(zoo_multi(handle, 4, operations, results)));
    for (int i = 0; i < 4; i++) printf("result %d: %d\n", i, results[i].err);
}

static void walk_access(zhandle_t *handle) {
    create(handle, "/locked", "secret", ZOO_PERSISTENT, &ZOO_CREATOR_ALL_ACL);
    authenticate(handle);
    create(handle, "/locked", "secret", ZOO_PERSISTENT, &ZOO_CREATOR_ALL_ACL);
    read_node(handle, "/locked", NULL, NULL);
    show_acl(handle, "/locked");
    show_acl(handle, "");
    int rc = zoo_set_acl(handle, below("/node"), 0, &ZOO_READ_ACL_UNSAFE);
    printf("setAcl /node: %s\n", zerror(rc));
    printf("set /node: %s\n", zerror(zoo_set(handle, below("/node"), "", 0, -1)));
    show_acl(handle, "/node");
    create(handle, "/mine", "here", ZOO_EPHEMERAL, &ZOO_OPEN_ACL_UNSAFE);
    create(handle, "/mine/child", "", ZOO_PERSISTENT, &ZOO_OPEN_ACL_UNSAFE);
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: c_client HOSTS BASE\n");
        return 2;
    }
    snprintf(base, sizeof base, "%s", arguments[2]);
    zoo_set_debug_level((ZooLogLevel)0); /* What matters is printed here. */
    struct journal journal;
    zhandle_t *handle = connect_to(arguments[1], &journal);
    walk_nodes(handle);
    walk_watches(handle);
    walk_multi(handle);
    walk_access(handle);
    printf("close: %s\n", zerror(zookeeper_close(handle)));

    handle = connect_to(arguments[1], &journal);
    sync_node(handle);
    read_node(handle, "/mine", NULL, NULL);
    read_node(handle, "/locked", NULL, NULL);
    authenticate(handle);
    read_node(handle, "/locked", NULL, NULL);
    const char *left[] = {"/locked", "/multi", "/node", "/s-0000000001", ""};
    for (int i = 0; i < 5; i++)
        printf("delete %s: %s\n", left[i], zerror(zoo_delete(handle, below(left[i]), -1)));
    printf("close: %s\n", zerror(zookeeper_close(handle)));
    return 0;
}
