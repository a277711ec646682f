-- Causes: errors without what differs from job to job, so that failures can be counted and changed by them.

-- The cause that an error shows: its first line, without what differs from job to job.
-- Each text in quotation marks, and each word with a digit, such as a number, an id, a time or an address, becomes a
-- question mark. At most 200 characters. Of a Python traceback it is the last line. The cause of a cause is itself.
create or replace function awa._cause(error text) returns text
language sql immutable parallel safe
return rtrim(left(
  regexp_replace(
    regexp_replace(
      split_part(
        btrim(left(
          case
            when starts_with(error, 'Traceback (most recent call last):')
              then substring(rtrim(right(error, 2000), E' \r\n\t') from '[^\n]*$')
            else error
          end, 2000), E' \r\n\t'), E'\n', 1) collate "C",
      $r$"[^"]*"|`[^`]*`|(?<![[:alnum:]])'[^']*'(?![[:alnum:]])$r$, '?', 'g'),
    '[[:alnum:]_]*[0-9][[:alnum:]_]*([-.:/][[:alnum:]_]+)*', '?', 'g'), 200), E' \r\t');
comment on function awa._cause is
  'The cause that an error shows: its first line, without what differs from job to job';

-- The cause of the last error of a job; null where it has none.
create or replace function awa._cause_of(errors jsonb) returns text
language sql immutable parallel safe
return awa._cause(errors -> -1 ->> 'error');
comment on function awa._cause_of is 'The cause of the last error of a job; null where it has none';

-- Refuses a cause that no error has; argument: its name in the caller's signature.
-- Raises 22023.
create or replace function awa._check_cause(cause text, argument text default 'cause') returns void
language plpgsql
as $$
begin
  if btrim(left(cause, 20000), E' \r\n\t') = '' then
    perform awa._refuse(argument || ' must be an error', awa._brief(to_jsonb(cause)),
      'Pass a cause that failure_causes returns, or an error; leave it out for any.');
  end if;
end
$$;
comment on function awa._check_cause is
  'Refuses a cause that no error has; argument: its name in the caller''s signature';
