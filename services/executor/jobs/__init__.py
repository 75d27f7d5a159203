"""The life of a provider's job: intended, submitted, followed, collected, and told when nobody wants it any more."""
