select h.level, h.topic, coalesce(h.subject, '') as subject, h.message, coalesce(h.hint, '') as hint, h.details
  from awa.health() h
