package grant

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// StoragePrefix is where the records live:
// <prefix><bucket>/<holder>/<shard>/<rest of the random part>.
//
// Storage lists a folder whole, in one message, and walks all that is below it to
// do so. The bucket, a digit of the holder's hash, keeps the list of holders in
// parts; the shard, the first digit of the random part, does the same for a holder
// with very many grants, such as NoHolder: a million are lists of 60,000, some 2 MiB
// each. More digits would cost a holder of a hundred grants a list for nearly each.
const StoragePrefix = "grant/"

// buckets is how many parts the holders are in, one hex digit.
const buckets = 16

const shardDigits = 1

// noShard is the shard of random parts too short to have one; no digit looks like it.
const noShard = "short"

// place is where a record lies, in the order in which records are read.
type place struct {
	bucket              int
	holder, shard, rest string
}

// placeOf finds a record's place by the grant's id; false if it is none.
func placeOf(id string) (place, bool) {
	holder, ok := HolderOf(id)
	if !ok {
		return place{}, false
	}
	p := place{bucket: bucketOf(holder), holder: holder, shard: noShard, rest: id[len(holder)+1:]}
	if len(p.rest) > shardDigits {
		p.shard, p.rest = p.rest[:shardDigits], p.rest[shardDigits:]
	}
	return p, true
}

func bucketOf(holder string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(holder)) // it never fails
	return int(h.Sum32() % buckets)
}

func bucketFolder(bucket int) string { return fmt.Sprintf("%s%x/", StoragePrefix, bucket) }

func holderFolder(holder string) string { return bucketFolder(bucketOf(holder)) + holder + "/" }

func (p place) folder() string { return holderFolder(p.holder) + p.shard + "/" }

func (p place) key() string { return p.folder() + p.rest }

func (p place) id() string {
	if p.shard == noShard {
		return p.holder + "." + p.rest
	}
	return p.holder + "." + p.shard + p.rest
}

// less orders the places of one holder.
func (p place) less(q place) bool {
	if p.shard != q.shard {
		return p.shard < q.shard
	}
	return p.rest < q.rest
}

// folders are the names of the folders among what a list answered.
func folders(names []string) []string {
	var out []string
	for _, name := range names {
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			out = append(out, folder)
		}
	}
	return out
}
